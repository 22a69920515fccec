"""Lists of images (VisA's CSV, meta.json): what they say arrives, and each bad line is told at its place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, encode_png
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.data.sources.listed import VISA_LIST, ListError, files, read_images

Split = Literal["train", "test"]
_RNG = np.random.default_rng(3)


def _images(root: Path) -> list[dict[str, Any]]:
    """Two categories of four good and four defective images, their files written."""
    mask = np.zeros((12, 16), np.uint8)
    mask[2:5, 3:9] = 3
    rows = []
    for category in ("candle", "pcb_1"):
        for index in range(8):
            bad = index >= 6
            name = f"{category}/{index}.JPG"
            row = {"category": category, "split": "train" if index < 3 else "test", "bad": bad, "image": name}
            rows.append(row | {"mask": f"{category}/{index}.png" if bad else ""})
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(encode_png(_RNG.integers(0, 256, (12, 16, 3), np.uint8)))
            if bad:
                (root / f"{category}/{index}.png").write_bytes(encode_png(mask))
    return rows


def _visa(root: Path, rows: list[dict[str, Any]]) -> DataConfig:
    lines = ["object,split,label,image,mask"]
    for row in rows:
        label = row.get("label", "anomaly" if row["bad"] else "normal")
        lines.append(f"{row['category']},{row['split']},{label},{row['image']},{row['mask']}")
    (root / VISA_LIST).parent.mkdir(exist_ok=True)
    (root / VISA_LIST).write_text("\n".join(lines) + "\n")
    return DataConfig(source="visa", root=str(root), num_train=0, num_test=0, held_out=("pcb 1",))


def _meta(root: Path, rows: list[dict[str, Any]]) -> DataConfig:
    content: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        item = {"img_path": row["image"], "mask_path": row["mask"], "cls_name": row["category"]}
        item |= {"specie_name": "crack" if row["bad"] else "good", "anomaly": row.get("label", int(row["bad"]))}
        content.setdefault(row["split"], {}).setdefault(row["category"], []).append(item)
    (root / "meta.json").write_text(json.dumps(content, indent=1))
    return DataConfig(source="meta", root=str(root / "meta.json"), num_train=0, num_test=0, held_out=("pcb_1",))


_LISTS: dict[str, Callable[[Path, list[dict[str, Any]]], DataConfig]] = {"visa": _visa, "meta": _meta}
lists = pytest.mark.parametrize("kind", _LISTS)


def _read(data: DataConfig, split: Split) -> tuple[list[AnnotatedImage], list[Fault]]:
    items = list(read_images(data, split, 0))
    return [i for i in items if isinstance(i, AnnotatedImage)], [i for i in items if isinstance(i, Fault)]


@lists
def test_images_masks_and_references_arrive_and_held_out_categories_are_tested(tmp_path: Path, kind: str) -> None:
    data = _LISTS[kind](tmp_path, _images(tmp_path))
    (train, faults), (test, more) = _read(data, "train"), _read(data, "test")
    assert faults == more == []
    assert {image.category for image in train} == {"candle"} and len(train) == 8
    assert {image.image_id for image in test} == {f"pcb_1/{index}.JPG" for index in range(3, 8)}
    for image in (*train, *test):
        assert image.test_image == (tmp_path / image.test_path).read_bytes() and image.mask is not None
        assert image.reference_path.split("/")[1] in ("0.JPG", "1.JPG", "2.JPG")
        assert image.reference_path != image.test_path and image.reference_path.split("/")[0] == image.test_path[:-6]
        bad = image.test_path[-5] in "67"
        name = "anomaly" if kind == "visa" else "crack"
        assert image.defects == ((Defect(name, Box(3, 2, 9, 5)),) if bad else ())
        assert decode_mask(image.mask).any() == bad
    assert len(set(files(data))) == 20


@lists
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"split": "neither"}, "split 'neither' is none|'neither' is no split"),
        ({"label": "odd"}, "label 'odd' is none|anomaly is 'odd'"),
        ({"mask": ""}, "is defective, but has no mask"),
        ({"split": "train"}, "is for training, where all are good"),
        ({"image": "../x.png"}, "lies outside|does not exist"),
        ({"image": "candle/none.png"}, "does not exist"),
        ({"image": ""}, "is no path|img_path is missing or empty"),
        ({"mask": "candle/0.JPG.png"}, "does not exist"),
        ({"image": "candle/5.JPG"}, "stands in line .* already"),
    ],
)
def test_a_bad_line_is_told_at_its_place_and_alone_is_lost(
    tmp_path: Path, kind: str, change: dict[str, str], problem: str
) -> None:
    rows = _images(tmp_path)
    rows[6] |= change
    data = dataclasses.replace(_LISTS[kind](tmp_path, rows), held_out=("candle",))
    images, faults = _read(data, "test")
    assert len(images) == 4, "of five test images of the category"
    (fault,) = faults
    assert re.search(problem, fault.problem) and fault.cure
    path = tmp_path / (VISA_LIST if kind == "visa" else "meta.json")
    assert fault.file == str(path)
    if change != {"split": "neither"} or kind == "visa":
        assert fault.line is not None
        said = path.read_text().splitlines()[fault.line - 1]
        assert rows[6]["image"] in said


def test_half_a_character_is_a_fault(tmp_path: Path) -> None:
    rows = _images(tmp_path)
    rows[6]["image"] = "candle/\ud800.JPG"
    images, faults = _read(dataclasses.replace(_meta(tmp_path, rows), held_out=("candle",)), "test")
    assert len(images) == 4 and "half a character" in faults[0].problem and str(faults[0]).encode()


@lists
def test_broken_images_and_empty_masks_are_told(tmp_path: Path, kind: str) -> None:
    data = dataclasses.replace(_LISTS[kind](tmp_path, _images(tmp_path)), held_out=("candle",))
    (tmp_path / "candle/6.png").write_bytes(encode_png(np.zeros((12, 16), np.uint8)))
    (tmp_path / "candle/4.JPG").write_bytes((tmp_path / "candle/4.JPG").read_bytes()[:60])
    images, faults = _read(data, "test")
    assert len(images) == 3
    assert sorted(fault.problem.split(" ")[0] for fault in faults) == ["candle/4.JPG", "candle/6.JPG"]


@lists
def test_a_broken_reference_is_told_at_its_own_line(tmp_path: Path, kind: str) -> None:
    data = dataclasses.replace(_LISTS[kind](tmp_path, _images(tmp_path)), held_out=("candle",))
    for index in range(3):  # the training images, which are references alone here
        (tmp_path / f"candle/{index}.JPG").write_bytes(b"no image")
    faults = _read(data, "test")[1]
    lines = (tmp_path / (VISA_LIST if kind == "visa" else "meta.json")).read_text().splitlines()
    told = {fault for fault in faults if fault.line is not None}
    assert len(told) == 3 and all(fault.problem.split(" ")[0] in lines[(fault.line or 0) - 1] for fault in told)


@lists
def test_what_is_no_list_is_an_error_with_its_path(tmp_path: Path, kind: str) -> None:
    data = _LISTS[kind](tmp_path, _images(tmp_path))
    with pytest.raises(ListError, match=r"has no category 'nope'; it has candle, pcb 1"):
        _read(dataclasses.replace(data, held_out=("nope",)), "train")
    path = tmp_path / (VISA_LIST if kind == "visa" else "meta.json")
    for content in (b"", b"[1]", b"\xff\xfe", b'{"a": 1}', b"object,split\n"):
        path.write_bytes(content)
        with pytest.raises(ListError, match=path.name):
            _read(data, "train")
    path.unlink()
    with pytest.raises(ListError, match="set data.root"):
        _read(data, "train")
