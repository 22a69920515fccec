"""Tiny trees of public data sets, each in its exact public layout, with what a reader must find in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sage_jax.config import Source
from sage_jax.data.images import encode_png

SIDE = 16


@dataclasses.dataclass(frozen=True)
class Shown:
    """What an image of a tree shows.

    Attributes:
      split: `either` where a hash may decide.
      marked: Pixels that its masks mark together; None = no mask is known.
    """

    category: str
    kind: str
    split: str
    marked: int | None = 0


Images = dict[str, Shown]


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A data set.

    Attributes:
      build: Writes it into a folder and gives its images by their paths.
      reader: What reads it.
      names: What it may be called.
      root: What `data.root` is, below the folder.
    """

    build: Callable[[Path], Images]
    reader: Source
    names: tuple[Source, ...]
    root: str = "."


def picture(path: Path) -> None:
    """An image that differs from all others by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    path.write_bytes(encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)))


def mask(path: Path, *, value: int = 255, top: int = 2, rows: int = 3) -> int:
    """A mask whose `rows` rows of 4 pixels are marked; gives their number."""
    marked = np.zeros((SIDE, SIDE), np.uint8)
    marked[top : top + rows, 3:7] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(marked))
    return 4 * rows


def label_folders(
    root: Path,
    category: str,
    kinds: tuple[str, ...],
    *,
    good: str = "good",
    suffix: str = ".png",
    end: str = "_mask",
    train: tuple[str, ...] = ("train",),
    test: str = "test",
    masks: str = "ground_truth",
) -> Images:
    """A category of MVTec AD's layout or a variety of it."""
    found, here, words = {}, root / category, category.replace("_", " ")
    for number in range(4):
        for folder in train:
            picture(here / f"{folder}/{good}/{number:03d}{suffix}")
            found[f"{category}/{folder}/{good}/{number:03d}{suffix}"] = Shown(words, "good", "train")
        picture(here / f"{test}/{good}/{number:03d}{suffix}")
        found[f"{category}/{test}/{good}/{number:03d}{suffix}"] = Shown(words, "good", "test")
        for kind in kinds:
            picture(here / f"{test}/{kind}/{number:03d}{suffix}")
            marked = mask(here / f"{masks}/{kind}/{number:03d}{end}.png")
            shown = Shown(words, kind.replace("_", " "), "either", marked)
            found[f"{category}/{test}/{kind}/{number:03d}{suffix}"] = shown
    return found


def mvtec_ad(root: Path) -> Images:
    return label_folders(root, "metal_nut", ("bent", "scratch")) | label_folders(root, "pill", ("crack",))


def mvtec_ad2(root: Path) -> Images:
    found = label_folders(
        *(root, "fruit_jelly", ("bad",)),
        train=("train", "validation"),
        test="test_public",
        masks="test_public/ground_truth",
    )
    for folder in ("test_private", "test_private_mixed"):
        picture(root / f"fruit_jelly/{folder}/000.png")
    return found


def loco(root: Path) -> Images:
    found = label_folders(root, "juice_bottle", (), train=("train", "validation"))
    for kind in ("logical_anomalies", "structural_anomalies"):
        for number in range(2):
            picture(root / f"juice_bottle/test/{kind}/{number:03d}.png")
            masks = root / f"juice_bottle/ground_truth/{kind}/{number:03d}"
            marked = mask(masks / "000.png") + mask(masks / "001.png", top=9, rows=2)
            found[f"juice_bottle/test/{kind}/{number:03d}.png"] = Shown(
                "juice bottle", kind.replace("_", " "), "either", marked
            )
    return found


def btad(root: Path) -> Images:
    masks = label_folders(root, "01", ("ko",), good="ok", suffix=".bmp", end="")
    return masks | label_folders(root, "02", ("ko",), good="ok", suffix=".png", end="")


def visa(root: Path) -> Images:
    """As published, with its list: paths of Windows in one category, class ids in the masks."""
    lines, found = ["object,split,label,image,mask"], {}
    for category in ("candle", "pcb1"):
        for number in range(6):
            name = f"{category}/Data/Images/Normal/{number:04d}.JPG"
            picture(root / name)
            split = "train" if number < 4 else "test"
            found[name] = Shown(category, "good", split)
            lines.append(f"{category},{split},normal,{name},")
        for number in range(3):
            name, masked = (f"{category}/Data/{part}" for part in ("Images/Anomaly", "Masks/Anomaly"))
            name, masked = f"{name}/{number:03d}.JPG", f"{masked}/{number:03d}.png"
            picture(root / name)
            found[name] = Shown(category, "anomaly", "either", mask(root / masked, value=1 + number))
            row = f"{category},test,anomaly,{name},{masked}"
            lines.append(row.replace("/", "\\") if category == "pcb1" else row)
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return found


def visa_without_list(root: Path) -> Images:
    found = visa(root)
    (root / "split_csv/1cls.csv").unlink()
    (root / "split_csv").rmdir()
    return {name: dataclasses.replace(shown, split="either") for name, shown in found.items()}


def visa_one_class(root: Path) -> Images:
    return label_folders(root / "1cls", "candle", ("bad",), end="", suffix=".JPG")


def dagm(root: Path) -> Images:
    found = {}
    for category in ("Class1", "Class2"):
        for folder, split in (("Train", "train"), ("Test", "test")):
            (root / category / folder / "Label").mkdir(parents=True)
            (root / category / folder / "Label/Labels.txt").write_text("1\n1\t0\t0576.PNG\t0\t0\n")
            for number in range(1, 6):
                name = f"{category}/{folder}/{number:04d}.PNG"
                picture(root / name)
                marked = mask(root / category / folder / f"Label/{number:04d}_label.PNG") if number > 3 else 0
                found[name] = Shown(category, "defect" if marked else "good", split, marked)
    return found


def deeppcb(root: Path) -> None:
    """A list for each split, a template beside each board, boxes in place of masks."""
    for index, name in enumerate(("trainval.txt", "test.txt")):
        lines = []
        for number in range(3):
            stem = f"0000{index}00{number}"
            board = np.zeros((120, 120), np.uint8)
            board[:, 10 + number : 120 : 20] = 255
            (root / "group00000/00000").mkdir(parents=True, exist_ok=True)
            (root / f"group00000/00000/{stem}_temp.jpg").write_bytes(encode_png(board))
            board[30:40, 30:40] = 255 - board[30:40, 30:40]
            (root / f"group00000/00000/{stem}_test.jpg").write_bytes(encode_png(board))
            (root / "group00000/00000_not").mkdir(exist_ok=True)
            (root / f"group00000/00000_not/{stem}.txt").write_text("30 30 40 40 1\n")
            lines.append(f"group00000/00000/{stem}.jpg group00000/00000_not/{stem}.txt")
        (root / name).write_text("\n".join(lines) + "\n")


def meta_json(root: Path) -> Images:
    content: dict[str, dict[str, list[object]]] = {"train": {"screw": []}, "test": {"screw": []}}
    found = {}
    for split, kind, number in [("train", "good", 0), ("train", "good", 1), ("test", "good", 0), ("test", "thread", 0)]:
        name, masked = f"screw/{split}/{kind}/{number:03d}.png", f"screw/ground_truth/{kind}/{number:03d}_mask.png"
        picture(root / "images" / name)
        bad = kind != "good"
        marked = mask(root / "images" / masked) if bad else 0
        item = {"img_path": f"images/{name}", "mask_path": f"images/{masked}" if bad else "", "cls_name": "screw"}
        content[split]["screw"].append(item | {"specie_name": kind if bad else "", "anomaly": int(bad)})
        found[f"images/{name}"] = Shown("screw", kind, "either" if bad else split, marked)
    (root / "meta.json").write_text(json.dumps(content, indent=4))
    return found


def real_iad(root: Path) -> Images:
    found = {}
    for category in ("pcb", "usb_adaptor"):
        lists: dict[str, list[object]] = {"train": [], "test": []}
        for split, kind, number in [("train", "OK", n) for n in range(3)] + [("test", "OK", 3), ("test", "AK", 4)]:
            folder = f"{'OK' if kind == 'OK' else f'NG/{kind}'}/S{number:04d}"
            stem = f"{category}_{number:04d}_{kind}_C1_20231028"
            picture(root / f"realiad_1024/{category}/{folder}/{stem}.jpg")
            masked = f"{folder}/{stem}.png" if kind != "OK" else None
            marked = mask(root / f"realiad_1024/{category}/{masked}") if masked else 0
            item = {"category": category, "anomaly_class": kind, "image_path": f"{folder}/{stem}.jpg"}
            lists[split].append(item | {"mask_path": masked})
            shown = Shown(category.replace("_", " "), "good" if kind == "OK" else kind, split, marked)
            found[f"{category}/{folder}/{stem}.jpg"] = dataclasses.replace(shown, split="either") if marked else shown
        path = root / f"realiad_jsons/realiad_jsons/{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"normal_class": "OK", "prefix": f"{category}/", "pre_transform": None}
        path.write_text(json.dumps({"meta": meta, **lists}, indent=2))
    return found


def ksdd(root: Path) -> Images:
    found, category = {}, root.name.replace("_", " ")
    for piece in range(1, 13):
        for part in range(3):
            name = f"kos{piece:02d}/Part{part}"
            picture(root / f"{name}.jpg")
            marked = mask(root / f"{name}_label.bmp", rows=2 if part == piece % 3 else 0)
            found[f"{name}.jpg"] = Shown(category, "defect" if marked else "good", "either", marked)
    return found


def ksdd2(root: Path) -> Images:
    found, category = {}, root.name.replace("_", " ")
    for split, first in (("train", 10000), ("test", 20000)):
        for number in range(first, first + 5):
            picture(root / f"{split}/{number}.png")
            marked = mask(root / f"{split}/{number}_GT.png", rows=2 if number % 5 > 2 else 0)
            found[f"{split}/{number}.png"] = Shown(category, "defect" if marked else "good", split, marked)
    return found


def manta(root: Path) -> Images:
    found = {}
    for domain, category in (("agriculture", "maize"), ("agriculture", "soybean"), ("mechanics", "nut")):
        for split, kind in (("train", "good"), ("test", "good"), ("test", "broken"), ("test-pixel", "broken")):
            for number in range(3):
                stem = f"{domain}_{category}_{split.replace('-', '')}{kind}{number:04d}"
                name = f"ImageData/{domain}/{category}/{split}/{kind}/{stem}.png"
                picture(root / name)
                home = "train" if split == "train" else "test" if kind == "good" else "either"
                marked: int | None = None if kind == "broken" else 0
                if split == "test-pixel":
                    marked = mask(root / f"ImageData/{domain}/{category}/{split}/mask/{stem}.png")
                found[name] = Shown(category, kind, home, marked)
    (root / "JsonData").mkdir()
    (root / "JsonData/agriculture_QA.json").write_text("[]")
    return found


_MVTEC: tuple[Source, ...] = ("mvtec_ad", "mpdd", "goodsad")
SETS = {
    "MVTec AD": PublicSet(mvtec_ad, "mvtec", _MVTEC),
    "MVTec AD 2": PublicSet(mvtec_ad2, "mvtec", ("mvtec_ad2",)),
    "MVTec LOCO": PublicSet(loco, "mvtec", ("loco",)),
    "BTAD": PublicSet(btad, "mvtec", ("btad",)),
    "VisA": PublicSet(visa, "visa", ("visa",)),
    "VisA without its list": PublicSet(visa_without_list, "mvtec", ("visa",)),
    "VisA, one-class copy": PublicSet(visa_one_class, "mvtec", ("visa", *_MVTEC), root="1cls"),
    "DAGM 2007": PublicSet(dagm, "mvtec", ("dagm",)),
    "meta.json": PublicSet(meta_json, "meta", (), root="meta.json"),
    "Real-IAD": PublicSet(real_iad, "real_iad", ("real_iad",)),
    "KolektorSDD": PublicSet(ksdd, "mvtec", ("ksdd",)),
    "KolektorSDD2": PublicSet(ksdd2, "mvtec", ("ksdd2",)),
    "MANTA": PublicSet(manta, "mvtec", ("manta",)),
}
"""Sets of labelled images, by name."""
