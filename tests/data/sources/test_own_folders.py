"""Folders of a user's own: good parts alone, kinds by folder names, masks where there are some, own references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import ConfigError, DataConfig
from sage_jax.data.images import decode_mask, decode_rgb, encode_png
from sage_jax.data.records import NOWHERE, Box, Fault, Record
from sage_jax.data.sources import folders, readers
from sage_jax.data.sources.own_folders import OWN

_RNG = np.random.default_rng(3)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(_RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)))


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    marked = np.zeros((32, 48), bool)
    marked[2:8, 36:46] = True
    path.write_bytes(encode_png(marked))


def data_of(root: Path, **changes: Any) -> DataConfig:
    return DataConfig(source="folder", root=str(root), num_train=0, num_test=0, **changes)


def records_of(root: Path, **changes: Any) -> tuple[list[Record], list[Fault]]:
    """Records of both splits, one of each image, and faults."""
    data = data_of(root, **{"pair_types": ("standard comparison",), **changes})
    items = [item for split in ("train", "test") for item in readers.read_records(data, split, 0)]
    return [one for one in items if isinstance(one, Record)], [one for one in items if isinstance(one, Fault)]


def test_good_parts_alone(tmp_path: Path) -> None:
    for index in range(30):
        picture(tmp_path / f"Photo {index}.png")
    records, faults = records_of(tmp_path)
    assert not faults and len(records) == 30 and {record.anomalous for record in records} == {False}
    assert all(record.reference_path not in ("", record.test_path) for record in records)
    (told,) = [each for each in folders.left_out(data_of(tmp_path)) if "defective" in each]
    assert "0 defective images are kept for testing" in told and "nothing of escapes" in told and "AUROC" in told


@pytest.mark.parametrize("good", ["good", "OK", "Normal"])
def test_folder_names_are_kinds_and_a_mask_is_optional(tmp_path: Path, good: str) -> None:
    for index in range(12):
        picture(tmp_path / f"{good}/{index}.png")
        picture(tmp_path / f"{good}/night shift/{index}.png")
        picture(tmp_path / f"bent pin/{index}.png")
        picture(tmp_path / f"scratch/{index}.png")
    mask(tmp_path / "masks/scratch/3.png")
    mask(tmp_path / "scratch/4_mask.png")
    mask(tmp_path / "masks/scratch/5_mask.png")
    records, faults = records_of(tmp_path)
    assert not faults and len(records) == 48
    by_path = {record.test_path: record for record in records}
    assert sum(record.anomalous is False for record in records) == 24
    for name, record in by_path.items():
        placed = name in ("scratch/3.png", "scratch/4.png", "scratch/5.png")
        if name.split("/")[0] in ("bent pin", "scratch"):
            assert record.anomalous and [one.type for one in record.defects] == [name.split("/")[0]]
            assert (record.mask is not None) == placed == (record.defects[0].box != NOWHERE)
            best = record.questions[0].answers[0].text
            assert ("upper right" in best) == placed, best
        for question in record.questions:
            assert len({answer.text for answer in question.answers}) == 4
            scores = [answer.score or 0.0 for answer in question.answers]
            assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    told = " ".join(folders.left_out(data_of(tmp_path)))
    assert "21 of 24 defective images" in told and "have no mask" in told


def test_a_label_of_unknown_kind_and_place_still_ranks_answers(tmp_path: Path) -> None:
    for index in range(12):
        picture(tmp_path / f"good/{index}.png")
        picture(tmp_path / f"defective/{index}.png")
    records, faults = records_of(tmp_path, pair_types=("standard comparison", "defect identification"))
    assert not faults and sum(bool(record.anomalous) for record in records) == 12


def test_large_photographs_are_shrunk_with_their_masks(tmp_path: Path) -> None:
    for index in range(8):
        picture(tmp_path / f"parts/good/{index}.png")
        picture(tmp_path / f"parts/scratch/{index}.png")
        mask(tmp_path / f"parts/masks/scratch/{index}.png")
    for side, size in ((0, (32, 48)), (100, (32, 48)), (24, (16, 24))):
        records, faults = records_of(tmp_path / "parts", shrink_px=side)
        assert not faults and len(records) == 16
        for record in records:
            assert decode_rgb(record.test_image, name="").shape[:2] == size
            assert record.mask is not None and decode_mask(record.mask).shape == size
            assert all(defect.box == Box(18, 1, 23, 4) for defect in record.defects) or side != 24


def test_an_image_is_compared_with_the_reference_of_its_name(tmp_path: Path) -> None:
    for index in range(8):
        picture(tmp_path / f"good/{index}.png")
        picture(tmp_path / f"dent/{index}.png")
    picture(tmp_path / "references/dent/1.png")
    picture(tmp_path / "references/2.png")
    chosen = {record.test_path: record.reference_path for record in records_of(tmp_path)[0]}
    assert chosen["dent/1.png"] == "references/dent/1.png"
    assert chosen["dent/2.png"] == chosen["good/2.png"] == "references/2.png"
    assert chosen["dent/3.png"].startswith("good/")
    assert not any(path.startswith("references") for path in chosen)
    assert {"references/2.png", "references/dent/1.png"} <= set(folders.files(data_of(tmp_path)))


def test_an_image_is_compared_with_several_references(tmp_path: Path) -> None:
    for index in range(20):
        picture(tmp_path / f"good/{index}.png")
    for index in range(3):
        picture(tmp_path / f"references/5/{index}.png")
    records, faults = records_of(tmp_path, num_references=4)
    assert not faults
    for record in records:
        paths = [each.path for each in record.references]
        if record.test_path == "good/5.png":
            assert paths == [f"references/5/{index}.png" for index in range(3)]
        else:
            assert len({*paths, record.test_path}) == 5 and all(path.startswith("good/") for path in paths)
        contents = [(tmp_path / path).read_bytes() for path in paths]
        assert [each.image for each in record.references] == contents
    assert 3 < max(len(record.references) for record in records_of(tmp_path, num_references=30)[0]) < 20
    before = readers.source_revision(data_of(tmp_path, num_references=4), 0)
    picture(tmp_path / "references/5/1.png")
    assert readers.source_revision(data_of(tmp_path, num_references=4), 0) != before
    with pytest.raises(ConfigError, match="generator gives an image one reference"):
        DataConfig(num_references=2)


def test_several_references_are_registered_and_go_with_drawn_copies(tmp_path: Path) -> None:
    plain = np.full((96, 96, 3), 90, np.uint8)
    plain[30:60, 20:50], plain[50:70, 60:85] = (220, 40, 40), (30, 30, 200)
    for index, shift in enumerate((0, 6, -5)):
        (tmp_path / f"{index}.png").write_bytes(encode_png(np.roll(plain, shift, axis=0)))
    records, _ = records_of(
        tmp_path, num_references=2, register="rigid", drawn_defects=1, test_fraction=1e-6, drawn_variation=0.0
    )
    assert len(records) == 6
    for record in records:
        assert len(record.references) == 2
        if not record.anomalous:
            test = decode_rgb(record.test_image, name="").astype(int)
            for each in record.references:
                assert np.abs(decode_rgb(each.image, name="").astype(int) - test)[12:-12].mean() < 4.0


def test_a_public_tree_and_a_folder_of_categories_are_read_too(tmp_path: Path) -> None:
    for index in range(5):
        picture(tmp_path / f"tree/train/good/{index}.png")
        picture(tmp_path / f"tree/test/good/{index}.png")
        picture(tmp_path / f"tree/test/hole/{index}.png")
        mask(tmp_path / f"tree/ground_truth/hole/{index}_mask.png")
        picture(tmp_path / f"many/cap/good/{index}.png")
        picture(tmp_path / f"many/nut/ok/{index}.png")
        picture(tmp_path / f"many/loose/{index}.png")
    assert len(records_of(tmp_path / "tree")[0]) == 15
    many, faults = records_of(tmp_path / "many")
    assert not faults and {record.category for record in many} == {"cap", "nut"} and len(many) == 10
    assert any("loose: 5 images are not read" in each for each in folders.left_out(data_of(tmp_path / "many")))


def test_what_cannot_be_told_apart_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "scratch/0.png")
    with pytest.raises(readers.ReaderError, match="no folder named good, ok, normal"):
        records_of(tmp_path)
    for index in range(4):
        picture(tmp_path / f"good/{index}.png")
    picture(tmp_path / "stray.png")
    faults = records_of(tmp_path)[1]
    assert faults and {Path(fault.file).name for fault in faults} == {"stray.png"}
    mask(tmp_path / "masks/scratch/9.png")
    assert any("is the mask of no image" in each for each in folders.left_out(data_of(tmp_path)))
    assert not OWN.fits(tmp_path / "nowhere")


@pytest.mark.parametrize("names", [("train", "val"), ("Testing", "Training"), ("nut", "test")])
def test_splits_are_no_categories(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / name / "good/0.png")
        picture(tmp_path / name / "scratch/0.png")
    with pytest.raises(readers.ReaderError, match="named as (a split|splits), and would (all )?train") as error:
        records_of(tmp_path)
    never = next(name for name in names if name in ("val", "Testing", "test"))
    assert f"set data.root to the one that is to train; score on {never} apart" in str(error.value)
    assert folders.categories(data_of(tmp_path / names[0])) == {".": OWN}  # who names one of them gets it


def test_training_on_what_is_named_for_testing_is_told(tmp_path: Path) -> None:
    for name in ("test", "nut"):
        picture(tmp_path / name / "good/0.png")
        said = [each for each in readers.left_out(data_of(tmp_path / name)) if "for testing by its name" in each]
        assert len(said) == (name == "test")
