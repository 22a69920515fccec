"""Absolute difference to the reference, held against a plain computation."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from sage_jax.data.images import encode_png
from sage_jax.data.records import Record, Reference
from sage_jax.evaluation.baselines import BLUR_PX, DifferenceMaps, difference_map

RECORD = Record("r", "i", b"", None, "part", "standard comparison", (), (), (), None, (), None, "", "")


def pair(test: np.ndarray, reference: np.ndarray) -> Record:
    return dataclasses.replace(RECORD, test_image=encode_png(test), reference_image=encode_png(reference))


def blurred(values: np.ndarray) -> np.ndarray:
    """Gaussian of `BLUR_PX`, cut at four deviations, borders repeated, written out."""
    reach = int(4 * BLUR_PX + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / BLUR_PX) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        values = np.apply_along_axis(np.convolve, axis, padded, weights, "valid")
    return values


def test_the_map_is_the_blurred_absolute_difference():
    rng = np.random.default_rng(3)
    test, reference = (rng.integers(0, 256, (20, 31, 3), dtype=np.uint8) for _ in range(2))
    expected = blurred(np.abs(test.astype(float) - reference.astype(float)).mean(axis=-1))
    np.testing.assert_allclose(difference_map(pair(test, reference)), expected, atol=1e-3)


def test_of_several_references_the_least_difference_counts_at_each_pixel():
    rng = np.random.default_rng(5)
    test, *others = (rng.integers(0, 256, (12, 17, 3), dtype=np.uint8) for _ in range(4))
    more = tuple(Reference(encode_png(each), "more") for each in others[1:])
    found = difference_map(dataclasses.replace(pair(test, others[0]), further_references=more))
    expected = np.min([difference_map(pair(test, each)) for each in others], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found < difference_map(pair(test, others[0])) - 1.0).any()


def test_a_reference_of_another_size_is_stretched_to_the_test_image():
    rng = np.random.default_rng(4)
    test, reference = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((16, 24), (8, 12)))
    stretched = np.asarray(Image.open(io.BytesIO(encode_png(reference))).resize((24, 16), Image.Resampling.BILINEAR))
    expected = blurred(np.abs(test.astype(float) - stretched.astype(float)).mean(axis=-1))
    np.testing.assert_allclose(difference_map(pair(test, reference)), expected, atol=1e-3)


def test_scores_are_the_maxima_and_maps_are_made_when_asked_for():
    rng = np.random.default_rng(5)
    records = [pair(*(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(2))) for _ in range(3)]
    steps: list[int] = []
    maps = DifferenceMaps(records, steps.append)
    assert len(maps) == 3 and not steps
    assert maps.score(1) == pytest.approx(float(difference_map(records[1]).max()))
    assert float(maps[2].max()) == pytest.approx(maps.score(2)) and steps == [1]


def test_without_a_reference_there_is_no_difference():
    with pytest.raises(ValueError, match="record r has no reference"):
        difference_map(dataclasses.replace(RECORD, test_image=encode_png(np.zeros((4, 4, 3), np.uint8))))
