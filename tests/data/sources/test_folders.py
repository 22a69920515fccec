"""MVTec-style trees in their published varieties are read alike, divided without leaks, and drawn evenly."""

from __future__ import annotations

import collections
import dataclasses
import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, encode_png
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.data.sources.folders import FolderLayoutError, files, left_out, read_images

Split = Literal["train", "test"]
_RNG = np.random.default_rng(11)


def _picture(path: Path, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(_RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(buffer, kind)
    path.write_bytes(buffer.getvalue())


def _mask(path: Path, *boxes: tuple[int, int, int, int], shape: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    path.write_bytes(encode_png(mask))


def _category(folder: Path, num: int = 6, defects: tuple[str, ...] = ("bent_wire", "hole"), good: str = "good") -> None:
    for index in range(num):
        _picture(folder / f"train/{good}/{index:03d}.png")
        _picture(folder / f"test/{good}/{index:03d}.png")
        for defect in defects:
            _picture(folder / f"test/{defect}/{index:03d}.png")
            _mask(folder / f"ground_truth/{defect}/{index:03d}_mask.png", (4, 5, 9, 11))


def _config(root: Path, **changes: object) -> DataConfig:
    base = DataConfig(source="mvtec", root=str(root), num_train=0, num_test=0, test_fraction=0.4)
    return dataclasses.replace(base, **changes)


def _read(data: DataConfig, split: Split, seed: int = 0) -> tuple[list[AnnotatedImage], list[Fault]]:
    items = list(read_images(data, split, seed))
    images = [item for item in items if isinstance(item, AnnotatedImage)]
    return images, [item for item in items if isinstance(item, Fault)]


def test_every_image_is_used_once_and_no_test_image_trains(tmp_path: Path) -> None:
    for name in ("metal_nut", "pill"):
        _category(tmp_path / name, num=20)
    (train, faults), (test, more) = _read(_config(tmp_path), "train"), _read(_config(tmp_path), "test")
    assert not faults and not more
    train_ids, test_ids = {image.image_id for image in train}, {image.image_id for image in test}
    assert not train_ids & test_ids and len(train_ids) + len(test_ids) == 160 == len(train) + len(test)
    assert {image.image_id.split("/")[1] for image in train if not image.defects} == {"train"}
    assert {image.image_id.split("/")[1] for image in test} == {"test"}
    share = sum(bool(image.defects) for image in test) / 80
    assert 0.25 < share < 0.55
    assert {image.category for image in train} == {"metal nut", "pill"}
    assert {defect.type for image in train for defect in image.defects} == {"bent wire", "hole"}
    assert {image.image_id for image in _read(_config(tmp_path), "test", seed=9)[0]} == test_ids


def test_held_out_categories_are_for_testing_only(tmp_path: Path) -> None:
    for name in ("metal_nut", "pill", "screw"):
        _category(tmp_path / name)
    for name in ("metal_nut", "metal nut"):
        data = _config(tmp_path, held_out=(name,))
        train, test = _read(data, "train")[0], _read(data, "test")[0]
        assert {image.category for image in test} == {"metal nut"} and len(test) == 18
        assert {image.category for image in train} == {"pill", "screw"} and len(train) == 48
        assert all(image.reference_path.startswith("metal_nut/train/good/") for image in test)
    with pytest.raises(FolderLayoutError, match="no category 'screws'; it has metal nut, pill, screw"):
        _read(_config(tmp_path, held_out=("screws",)), "test")


def test_a_reference_is_good_of_the_same_category_and_never_the_image_itself(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _category(tmp_path / name)
    for split in ("train", "test"):
        images = _read(_config(tmp_path), split)[0]
        for image in images:
            assert image.reference_path.startswith(f"{image.category}/train/good/")
            assert image.reference_path != image.test_path
            assert image.reference_image == (tmp_path / image.reference_path).read_bytes()
        assert len({image.reference_path for image in images}) > 4
        assert images == _read(_config(tmp_path), split)[0]


def test_an_only_good_image_has_no_reference(tmp_path: Path) -> None:
    _category(tmp_path, num=1)
    assert [image.reference_image for image in _read(_config(tmp_path), "train")[0] if not image.defects] == [None]


def test_root_may_be_the_category_itself(tmp_path: Path) -> None:
    _category(tmp_path / "metal_nut")
    for split in ("train", "test"):
        above, itself = _read(_config(tmp_path), split)[0], _read(_config(tmp_path / "metal_nut"), split)[0]
        assert {image.image_id for image in above} == {image.image_id for image in itself}
        assert {image.category for image in itself} == {"metal nut"}


def test_masks_are_found_under_every_published_name(tmp_path: Path) -> None:
    for index in range(2):
        _picture(tmp_path / f"train/ok/{index}.bmp", "BMP")
    _picture(tmp_path / "validation/good/9.png")
    for name, kind, mask in (
        ("0000.bmp", "BMP", "ground_truth/ko/0000.png"),
        ("0001.JPG", "JPEG", "ground_truth/ko/0001_mask.PNG"),
        ("0002.png", "PNG", "ground_truth/ko/0002/000.png"),
    ):
        _picture(tmp_path / "test/ko" / name, kind)
        _mask(tmp_path / mask, (2, 3, 6, 8))
    _mask(tmp_path / "ground_truth/ko/0002/001.png", (20, 10, 30, 20))
    _picture(tmp_path / "test/ok/._0003.png")  # as macOS leaves behind: no image of the set
    images, faults = _read(_config(tmp_path, held_out=(tmp_path.name,)), "test")
    assert not faults
    by_stem = {Path(image.test_path).stem: image for image in images}
    assert set(by_stem) == {"0000", "0001", "0002"}
    assert by_stem["0000"].defects == by_stem["0001"].defects == (Defect("ko", Box(2, 3, 6, 8)),)
    assert {defect.box for defect in by_stem["0002"].defects} == {Box(2, 3, 6, 8), Box(20, 10, 30, 20)}
    union = by_stem["0002"].mask
    assert union is not None and decode_mask(union).sum() == 4 * 5 + 10 * 10
    assert len(_read(_config(tmp_path), "train")[0]) >= 3, "validation/good trains too"


def test_draws_are_even_over_classes_categories_and_types(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _category(tmp_path / name, num=12)
    data = _config(tmp_path, num_train=16, test_fraction=0.1)
    images = _read(data, "train")[0]
    kinds = collections.Counter(
        (image.category, image.defects[0].type if image.defects else "good") for image in images
    )
    assert kinds == {("a", "good"): 4, ("b", "good"): 4} | {(c, t): 2 for c in "ab" for t in ("bent wire", "hole")}
    assert [bool(image.defects) for image in images] == [False, True] * 8
    assert images == _read(data, "train")[0]
    assert {i.image_id for i in images} != {i.image_id for i in _read(data, "train", seed=1)[0]}
    assert len(_read(_config(tmp_path, num_train=10**6), "train")[0]) == len(_read(_config(tmp_path), "train")[0])


def test_bad_places_are_faults_with_file_and_cure(tmp_path: Path) -> None:
    data = _config(tmp_path, held_out=("a",))
    _category(tmp_path / "a", num=3, defects=("hole",))
    truth = tmp_path / "a/ground_truth/hole"
    (truth / "000_mask.png").unlink()
    _mask(truth / "001_mask.png")
    (truth / "002_mask.png").write_bytes((truth / "002_mask.png").read_bytes()[:-30])
    (tmp_path / "a/train/scratch").mkdir()
    _picture(tmp_path / "a/train/scratch/000.png")
    images, faults = _read(data, "test")
    assert not [image for image in images if image.defects]
    told = {Path(fault.file).relative_to(tmp_path).as_posix(): fault for fault in faults}
    assert "has no mask" in told["a/test/hole/000.png"].problem
    assert "ground_truth/hole/000_mask.png" in told["a/test/hole/000.png"].cure
    assert "empty" in told["a/test/hole/001.png"].problem
    assert "truncated" in told["a/ground_truth/hole/002_mask.png"].problem
    assert "scratch" in told["a/train/scratch/000.png"].problem
    cure = "move it to test/scratch; name the folder good if its parts are all good ones"
    assert told["a/train/scratch/000.png"].cure == cure
    assert len(faults) == 4


def test_a_category_without_good_training_images_is_a_fault(tmp_path: Path) -> None:
    _category(tmp_path / "a")
    _category(tmp_path / "b", good="flawless")
    images, faults = _read(_config(tmp_path), "train")
    assert {image.category for image in images} == {"a"}
    assert any(fault.file == str(tmp_path / "b/train") and "no good image" in fault.problem for fault in faults)


def test_a_link_out_of_the_root_is_a_fault(tmp_path: Path) -> None:
    root = tmp_path / "set"
    _category(root / "a", num=2)
    _picture(tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", root / "a/test/good/link.png")
    faults = _read(_config(root), "test")[1]
    assert len(faults) == 1 and "outside" in faults[0].problem


def test_what_lies_in_a_hidden_folder_is_no_record(tmp_path: Path) -> None:
    _category(tmp_path / "a", num=2)
    _picture(tmp_path / "a/test/good/.ipynb_checkpoints/000-checkpoint.png")
    _picture(tmp_path / "a/train/.thumbs/good/000.png")
    _category(tmp_path / ".trash" / "b", num=1)
    _category(tmp_path / ".old", num=1)
    images = [image for split in ("train", "test") for image in _read(_config(tmp_path), split)[0]]
    assert len(images) == 8 and not any("/." in f"/{image.image_id}" for image in images)
    assert not any("/." in f"/{name}" for name in files(_config(tmp_path)))


def test_an_image_outside_the_folders_of_labels_is_a_fault(tmp_path: Path) -> None:
    _category(tmp_path / "a", num=2)
    _picture(tmp_path / "a/test/loose.png")
    _picture(tmp_path / "a/train/new.png")
    images, faults = _read(_config(tmp_path), "test")
    assert {fault.file: fault.cure for fault in faults} == {
        str(tmp_path / "a/train/new.png"): "move it to train/good or to test/<defect> if it has a defect",
        str(tmp_path / "a/test/loose.png"): "move it to test/good or test/<defect>",
    }
    assert not any("loose" in image.test_path for image in images)


def test_a_split_that_the_layout_does_not_have_is_told(tmp_path: Path) -> None:
    _category(tmp_path / "a", num=2)
    assert not any("are not read" in each for each in left_out(_config(tmp_path)))
    _picture(tmp_path / "a/val/good/000.png")
    _picture(tmp_path / "a/val/hole/000.png")
    said = f"{tmp_path / 'a/val'}: 2 images are not read; read are train, validation and test"
    assert said in list(left_out(_config(tmp_path)))


def test_a_file_name_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    _category(tmp_path / "a", num=3)
    for folder in ("train/good", "test/good", "train/odd", "test"):
        _picture(tmp_path / "a" / folder / "x\udcff.png")
    found = [_read(_config(tmp_path), split) for split in ("train", "test")]
    faults = {str(fault) for _, faults in found for fault in faults}
    assert all(fault.encode() and "xff.png" in fault.replace("udcff", "xff") for fault in faults)
    assert {fault.split("/a/")[1].split(":")[0].rsplit("/", 1)[0] for fault in faults if "/a/" in fault} >= {
        "train/odd",
        "test",
    }
    assert sum("is no path" in fault for fault in faults) == 2
    assert sum(len(images) for images, _ in found) >= 6


def test_what_is_no_tree_is_an_error_with_its_path(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FolderLayoutError, match=str(root)):
            _read(_config(root), "train")


def test_files_lists_images_and_masks(tmp_path: Path) -> None:
    _category(tmp_path / "a", num=2, defects=("hole",))
    names = list(files(_config(tmp_path)))
    assert len(names) == len(set(names)) == 8 and all((tmp_path / name).is_file() for name in names)
