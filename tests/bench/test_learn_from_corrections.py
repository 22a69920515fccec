"""The measurement of what a run learns: its shifted images, its operator, and its sums."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.learn_from_corrections import Look, differing, distinct, refitted, summed, turned
from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, encode_png, remembered_rgb
from sage_jax.data.records import Box, Record
from sage_jax.data.sources.readers import read_records


@pytest.fixture(scope="module")
def records() -> list[Record]:
    data = DataConfig(num_train=8, num_test=1, image_px=48)
    return [each for each in read_records(data, "train", 2) if isinstance(each, Record)]


@pytest.mark.parametrize("quarters", range(5))
def test_boxes_turn_with_their_image(quarters: int) -> None:
    pixels, box = np.zeros((6, 10), np.uint8), Box(1, 2, 4, 3)
    pixels[box.top : box.bottom, box.left : box.right] = 1
    found = turned(box, 10, 6, quarters)
    expected = np.rot90(pixels, quarters)
    shown = np.zeros_like(expected)
    shown[found.top : found.bottom, found.left : found.right] = 1
    assert np.array_equal(shown, expected)


def test_the_look_changes_and_what_is_known_stays(records: list[Record]) -> None:
    for record in records:
        other = Look(1.5, 20.0, 1, 0.0, references_too=True).of(record)
        before, after = (remembered_rgb(each.test_image, name="", keep=False) for each in (record, other))
        assert np.array_equal(after, np.clip(np.rot90(before) * 1.5 + 20.0, 0, 255).astype(np.uint8))
        assert (other.anomalous, len(other.defects)) == (record.anomalous, len(record.defects))
        if record.mask is not None and record.defects:
            mask = np.rot90(decode_mask(record.mask))
            assert all(mask[d.box.top : d.box.bottom, d.box.left : d.box.right].any() for d in other.defects)


def test_the_image_turns_by_degrees_and_references_may_keep_their_look(records: list[Record]) -> None:
    record = next(each for each in records if each.reference_image)
    other = Look(1.2, 10.0, 0, 5.0, references_too=False).of(record)
    before, after = (remembered_rgb(each.reference_image or b"", name="", keep=False) for each in (record, other))
    assert np.array_equal(before, after)
    test, turned_test = (remembered_rgb(each.test_image, name="", keep=False) for each in (record, other))
    assert turned_test.shape == test.shape and np.abs(turned_test.astype(float) - (test * 1.2 + 10.0)).max() > 20
    straight = Look(1.2, 10.0, 0, 0.0, references_too=False).of(record)
    assert not np.array_equal(remembered_rgb(straight.test_image, name="", keep=False), turned_test)


def test_each_image_counts_once(records: list[Record]) -> None:
    assert [each.image_id for each in distinct([*records, *records])] == list(
        dict.fromkeys(r.image_id for r in records)
    )


def test_sums_are_in_points_over_the_seeds() -> None:
    one = {"shifted before": 0.5, "shifted after": 0.75, "test_verdicts": [0.9, 0.89], "minutes": 4.0}
    two = {"shifted before": 0.5, "shifted after": 0.65, "test_verdicts": [0.9, 0.91], "minutes": 6.0}
    found = summed([one, two])
    assert found["shifted, points"] == pytest.approx([20.0, 15.0, 25.0])
    assert found["old test, points"] == pytest.approx([0.0, -1.0, 1.0])
    assert found["minutes"] == [5.0, 4.0, 6.0]


def test_a_rivals_threshold_is_that_of_the_corrections(records: list[Record]) -> None:
    good = dataclasses.replace(records[0], anomalous=False)
    bad = dataclasses.replace(records[0], anomalous=True)
    corrected = [good, good, bad, bad]
    assert refitted([0.1, 0.4, 0.8, 0.9], corrected, [0.5, 0.7, 0.2], [False, True, False]) == 1.0
    assert refitted([0.1, 0.4, 0.8, 0.9], corrected, [0.5, 0.7, 0.2], [True, False, True]) == 0.0
    assert refitted([0.9, 0.9, 0.9, 0.9], corrected, [0.9, 0.9], [True, False]) == 0.5


def test_the_difference_is_taken_in_equal_light(records: list[Record]) -> None:
    pixels = np.random.default_rng(0).integers(60, 120, (32, 32, 3)).astype(np.uint8)
    brighter, marked = (pixels * 1.5 + 20).astype(np.uint8), pixels.copy()
    marked[10:16, 10:16] = 250
    same, other = (
        dataclasses.replace(records[0], test_image=encode_png(each), reference_image=encode_png(pixels))
        for each in (brighter, marked)
    )
    assert differing(same) < 2.0 < 30.0 < differing(other)
