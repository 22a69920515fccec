"""Kolektor's sets: an empty mask is a good image, pieces are not divided, and each fault costs its own image alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources import folders
from sage_jax.data.sources.kolektor import MaskBesideImage
from tests.support.public_sets import Images, ksdd, ksdd2, mask, picture


def _read(root: Path) -> tuple[dict[str, str], list[Fault]]:
    """The split of each image, and the faults of both."""
    found, faults = {}, dict[Fault, None]()
    for split in ("train", "test"):
        data = DataConfig(source="mvtec", root=str(root), num_train=0, num_test=0, test_fraction=0.4)
        for item in folders.read_images(data, split, 0):
            if isinstance(item, AnnotatedImage):
                found[item.test_path] = split
            else:
                faults.setdefault(item)
    return found, list(faults)


def test_images_of_one_piece_are_in_one_split(tmp_path: Path) -> None:
    ksdd(tmp_path)
    splits, faults = _read(tmp_path)
    assert not faults and len(splits) == 36
    by_piece = {path.split("/")[0]: set[str]() for path in splits}
    for path, split in splits.items():
        by_piece[path.split("/")[0]].add(split)
    assert all(len(each) == 1 for each in by_piece.values())
    assert {split for each in by_piece.values() for split in each} == {"train", "test"}


@pytest.mark.parametrize("build", [ksdd, ksdd2])
def test_an_image_without_mask_and_a_broken_mask_cost_themselves(
    build: Callable[[Path], Images], tmp_path: Path
) -> None:
    images = build(tmp_path)
    whole, _ = _read(tmp_path)
    masks = {name: next(tmp_path.glob(f"{name.rpartition('.')[0]}_*")) for name in images}
    first, second = sorted(images)[0], sorted(images)[4]
    masks[first].unlink()
    masks[second].write_bytes(masks[second].read_bytes()[:40])
    splits, faults = _read(tmp_path)
    assert whole.keys() - splits.keys() == {first, second}
    told = {fault.file: fault.problem for fault in faults}
    assert "has no mask" in told[str(tmp_path / first)] and str(masks[second]) in told and len(told) == 2


def test_a_mask_that_is_drawn_later_makes_its_image_defective(tmp_path: Path) -> None:
    ksdd2(tmp_path)
    layout = MaskBesideImage("KolektorSDD2", end="_GT", split=True)
    before = {entry.path: entry for entry in layout.entries(tmp_path, ".")}
    assert before["train/10000.png"].good and not before["train/10000.png"].masks
    mask(tmp_path / "train/10000_GT.png")
    os.utime(tmp_path / "train/10000_GT.png", ns=(1, 1))
    after = {entry.path: entry for entry in layout.entries(tmp_path, ".")}
    assert after["train/10000.png"].masks == ("train/10000_GT.png",) and not after["train/10000.png"].good
    assert sum(entry.good for entry in after.values()) == sum(entry.good for entry in before.values()) - 1


def test_masks_of_no_image_and_missing_parts_are_told(tmp_path: Path) -> None:
    ksdd2(tmp_path)
    layout = MaskBesideImage("KolektorSDD2", end="_GT", split=True)
    mask(tmp_path / "train/99999_GT.png")
    (sentence,) = layout.left_out(tmp_path, ".", layout.entries(tmp_path, "."))
    assert "99999_GT.png: is the mask of no image" in sentence
    for path in (tmp_path / "test").iterdir():
        path.unlink()
    (fault,) = layout.faults(tmp_path, layout.entries(tmp_path, "."))
    assert fault.file == str(tmp_path / "test") and fault.problem == "has no image"
    for path in (tmp_path / "train").glob("*_GT.png"):
        mask(path)
    problems = [fault.problem for fault in layout.faults(tmp_path, layout.entries(tmp_path, "."))]
    assert problems == ["has no image", "has no good image to train on and compare with"]


def test_other_trees_are_not_theirs(tmp_path: Path) -> None:
    for name in ("train/0.png", "test/0.png", "kos01/Part0.jpg"):
        picture(tmp_path / name)
    assert not MaskBesideImage("KolektorSDD2", end="_GT", split=True).fits(tmp_path)
    assert not MaskBesideImage("KolektorSDD", end="_label", split=False).fits(tmp_path)
    assert not MaskBesideImage("KolektorSDD", end="_label", split=False).fits(tmp_path / "none")
