"""The lesson of stage `learn`: which images are held out, and which kinds the data set shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.corrections.groups import CorrectedImage, corrected_images
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record
from sage_jax.data.sources.readers import read_records
from sage_jax.stages.lesson import Lesson, hold_out, kinds_of
from tests.support.corrected import finding


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[CorrectedImage]:
    store = CorrectionStore(tmp_path_factory.mktemp("store"))
    for shade in range(60):
        number = store.add_inspection(finding(image=encode_png(np.full((8, 8, 3), shade, np.uint8)), references=()))
        store.correct(number, "Ada", kind="dent")
    return corrected_images(store, load_vocabulary())


@pytest.mark.parametrize("number", [2, 3, 10, 60])
def test_images_are_parted_and_both_parts_have_some(images: list[CorrectedImage], number: int) -> None:
    trained, held_out = hold_out(images[:number], 0.2)
    keys = [{each.key for each in part} for part in (trained, held_out)]
    assert not keys[0] & keys[1] and keys[0] | keys[1] == {each.key for each in images[:number]}
    assert len(held_out) == max(1, -(-number // 5)) and trained


def test_an_image_never_trains_and_is_held_out_with_another_reference(images: list[CorrectedImage]) -> None:
    others = [
        dataclasses.replace(each, entry=dataclasses.replace(each.entry, references=("a" * 64,))) for each in images
    ]
    trained, held_out = hold_out([*images, *others], 0.2)
    assert not {each.key for each in trained} & {each.key for each in held_out}
    assert len(held_out) == 24


def test_most_of_what_is_held_out_stays_so_as_more_is_corrected(images: list[CorrectedImage]) -> None:
    before = {each.key for each in hold_out(images[:50], 0.2)[1]}
    after = {each.key for each in hold_out(images, 0.2)[1]}
    assert len(before - after) <= 3


def test_kinds_are_counted_by_category_once_a_record() -> None:
    data = DataConfig(num_train=20, num_test=1, image_px=32)
    records = [each for each in read_records(data, "train", 1) if isinstance(each, Record)]
    found = kinds_of(records)
    for record in records:
        for defect in record.defects:
            same = [each for each in records if each.category == record.category]
            number = sum(any(each.type == defect.type for each in one.defects) for one in same)
            assert found[record.category][defect.type] == number
    assert sum(map(len, found.values())) > 1


def test_what_is_learnt_is_told_in_a_line(images: list[CorrectedImage]) -> None:
    lesson = Lesson(images[:3], images[3:5], (), (), [], 0, ("pit",), ("pit",), 2)
    told = str(lesson)
    assert "3 corrected images train and 2 are held out" in told and "does not list: pit" in told
    assert "several pieces: pit" in told and "2 texts are longer" in told
