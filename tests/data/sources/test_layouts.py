"""Folder layouts of public data sets: what is listed, divided, and told."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, encode_png
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources import folders
from sage_jax.data.sources.layouts import LAYOUTS, layout_of


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)))


def mask(path: Path, *, whole: bool = False) -> None:
    marked = np.full((16, 16), whole)
    marked[4:8, 4:10] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(marked))


def _data(root: Path, **changes: Any) -> DataConfig:
    return DataConfig(source="mvtec", root=str(root), num_train=0, num_test=0, **changes)


def images_of(root: Path, split: str, **changes: Any) -> tuple[list[AnnotatedImage], list[Fault]]:
    items = list(folders.read_images(_data(root, **changes), "train" if split == "train" else "test", 0))
    return [one for one in items if isinstance(one, AnnotatedImage)], [one for one in items if isinstance(one, Fault)]


def mvtec_ad2(place: Path) -> None:
    for index in range(4):
        picture(place / f"train/good/{index:03d}_regular.png", index)
        picture(place / f"validation/good/{index:03d}_regular.png", 10 + index)
        picture(place / f"test_public/good/{index:03d}_overexposed.png", 20 + index)
        picture(place / f"test_public/bad/{index:03d}_regular.png", 30 + index)
        mask(place / f"test_public/ground_truth/bad/{index:03d}_regular_mask.png")
        picture(place / f"test_private/{index:03d}_regular.png", 40 + index)
        picture(place / f"test_private_mixed/{index:03d}_mixed.png", 50 + index)


def visa(place: Path) -> None:
    for index in range(12):
        picture(place / f"Data/Images/Normal/{index:04d}.JPG", index)
        picture(place / f"Data/Images/Anomaly/{index:03d}.JPG", 20 + index)
        mask(place / f"Data/Masks/Anomaly/{index:03d}.png")


def dagm(place: Path) -> None:
    for part in ("Train", "Test"):
        for index in range(6):
            picture(place / part / f"{index:04d}.PNG", index)
        for index in (1, 4):
            mask(place / part / "Label" / f"{index:04d}_label.PNG")
        (place / part / "Label" / "Labels.txt").write_text("1\n")


BUILDERS = {"MVTec AD 2": mvtec_ad2, "VisA": visa, "DAGM 2007": dagm}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_labelled_image_is_read_once_with_its_mask_and_a_reference(name: str, tmp_path: Path) -> None:
    BUILDERS[name](tmp_path / "one")
    BUILDERS[name](tmp_path / "two")
    layout = layout_of(tmp_path / "one")
    assert layout is not None and layout.name == name
    seen: collections.Counter[str] = collections.Counter()
    for split in ("train", "test"):
        images, faults = images_of(tmp_path, split)
        assert not faults and images
        for image in images:
            seen[image.image_id] += 1
            assert image.reference_path != image.test_path and image.reference_image is not None
            assert image.reference_path.split("/")[0] == image.test_path.split("/")[0]
            assert image.mask is not None and decode_mask(image.mask).any() == bool(image.defects)
    assert set(seen.values()) == {1}
    assert len(seen) == {"MVTec AD 2": 32, "VisA": 48, "DAGM 2007": 24}[name]


def test_dagm_keeps_its_own_split(tmp_path: Path) -> None:
    dagm(tmp_path)
    for split, part in (("train", "Train"), ("test", "Test")):
        images, _ = images_of(tmp_path, split)
        assert {Path(image.test_path).parts[0] for image in images} == {part}
        assert sorted(Path(image.test_path).stem for image in images if image.defects) == ["0001", "0004"]
        assert {Path(image.reference_path).parts[0] for image in images} == {"Train"}


def test_visa_is_divided_by_a_hash_and_compares_with_training_images_alone(tmp_path: Path) -> None:
    visa(tmp_path)
    train, test = images_of(tmp_path, "train", test_fraction=0.4)[0], images_of(tmp_path, "test", test_fraction=0.4)[0]
    good = {image.test_path for image in train if not image.defects}
    assert {image.reference_path for image in (*train, *test)} <= good
    assert any(image.defects for image in test) and any(not image.defects for image in test)


def test_a_held_out_category_without_a_training_folder_still_has_references(tmp_path: Path) -> None:
    visa(tmp_path / "pcb")
    visa(tmp_path / "candle")
    held_out = {"held_out": ("pcb",), "test_fraction": 0.4}
    test, train = images_of(tmp_path, "test", **held_out)[0], images_of(tmp_path, "train", **held_out)[0]
    assert {image.category for image in test} == {"pcb"} and {image.category for image in train} == {"candle"}
    assert len(train) == 24 and sum(bool(image.defects) for image in test) == 12
    good = {image.test_path for image in test if not image.defects}
    references = {image.reference_path for image in test}
    assert good and "" not in references and not good & references


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    mvtec_ad2(tmp_path / "can")
    mask(tmp_path / "can/test_public/ground_truth/bad/999_regular_mask.png")
    mask(tmp_path / "can/test_public/ground_truth/typo/000_regular_mask.png")
    (tmp_path / "can/train/good/photo.JP2").write_bytes(b"x")
    (tmp_path / "can/train/good/gone.png").symlink_to(tmp_path / "nowhere.png")
    told = [each for each in folders.left_out(_data(tmp_path)) if "kept for testing" not in each]
    for words in ("test_private: 4 images", "test_private_mixed: 4 images", "999_regular_mask.png", "typo/000", "gone"):
        assert sum(words in sentence for sentence in told) == 1, words
    assert any("1 files *.jp2" in sentence for sentence in told) and len(told) == 6
    mvtec_ad2(tmp_path / "whole" / "can")
    whole = [each for each in folders.left_out(_data(tmp_path / "whole")) if "kept for testing" not in each]
    assert len(whole) == 2


def test_a_broken_good_image_costs_itself_alone(tmp_path: Path) -> None:
    mvtec_ad2(tmp_path)
    whole = {split: images_of(tmp_path, split)[0] for split in ("train", "test")}
    broken = tmp_path / "train/good/002_regular.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    for split, before in whole.items():
        images, faults = images_of(tmp_path, split)
        lost = {image.test_path for image in before} - {image.test_path for image in images}
        assert lost == ({"train/good/002_regular.png"} if split == "train" else set())
        assert {fault.file for fault in faults} <= {str(broken)}
        assert all(image.reference_path != "train/good/002_regular.png" for image in images)
        kept = {image.test_path: image.reference_path for image in images}
        for image in before:  # other references stay what they were
            if image.reference_path != "train/good/002_regular.png" and image.test_path in kept:
                assert kept[image.test_path] == image.reference_path


def test_a_mask_that_marks_every_pixel_is_a_fault(tmp_path: Path) -> None:
    mvtec_ad2(tmp_path)
    mask(tmp_path / "test_public/ground_truth/bad/001_regular_mask.png", whole=True)
    found = [fault for split in ("train", "test") for fault in images_of(tmp_path, split)[1]]
    assert len(found) == 1 and "marks every pixel" in found[0].problem and "001_regular" in found[0].file


def test_a_folder_of_another_shape_has_no_layout_and_dagm_without_labels_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert layout_of(tmp_path) is None and layout_of(tmp_path / "none") is None
    for part in ("Train", "Test"):
        picture(tmp_path / "own" / part / "0.png")
    faults = images_of(tmp_path / "own", "train")[1]
    assert [fault.problem for fault in faults] == ["has no folder Label"] * 2
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
