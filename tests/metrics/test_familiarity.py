"""Unfamiliar images: the rate that is promised holds, and each way of being far is told by its name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from sage_jax.metrics.familiarity import Familiarity, bank_of, distance, learn, match
from sage_jax.metrics.image_look import NUM_COLOURS, NUM_STATISTICS, Look

SIDE, WIDTH = 8, NUM_STATISTICS


def patches(rng: np.random.Generator) -> np.ndarray:
    """Patches near one of three points; the noise of an image is its own."""
    points = np.eye(WIDTH)[:3]
    return points[rng.integers(3, size=SIDE**2)] + rng.normal(0, rng.uniform(0.05, 0.2), (SIDE**2, WIDTH))


def look(rng: np.random.Generator) -> Look:
    """An image beside a reference that differs from it by noise."""
    own = patches(rng)
    reference = own + rng.normal(0, rng.uniform(0.02, 0.06), own.shape)
    return Look(own, (reference,), float(rng.normal(-3, 0.3)), float(rng.normal(0.5, 0.05)), math.log(640))


def looks(rng: np.random.Generator, number: int) -> list[Look]:
    return [look(rng) for _ in range(number)]


@pytest.mark.parametrize(("number", "rate"), [(4, 0.2), (20, 0.05), (60, 0.05), (200, 0.02)])
def test_images_like_those_of_the_calibration_are_doubted_as_rarely_as_promised(number: int, rate: float) -> None:
    shares, promised = [], []
    for seed in range(12 if number > 20 else 60):
        rng = np.random.default_rng(seed)
        known = learn(looks(rng, number), rate=rate)
        shares.append(np.mean([bool(known.doubt(each)) for each in looks(rng, 150 if number > 20 else 20)]))
        promised.append(known.rate)
    assert max(promised) <= rate + 1e-9
    error = np.std(shares) / math.sqrt(len(shares))
    assert 0.1 * rate < np.mean(shares) < promised[0] + 2 * error


def known_and_like(**changed: Any) -> tuple[Familiarity, Look]:
    """What good images look like, and the look of one of them, of which some measures are others."""
    rng = np.random.default_rng(1)
    known = learn(looks(rng, 100), rate=0.01)
    like = dataclasses.replace(look(rng), sharpness=-3.0, brightness=0.5)
    return known, dataclasses.replace(like, **changed)


ELSEWHERE = np.eye(WIDTH)[np.arange(SIDE**2) % 2 + 5]
"""Patches near none of the three points."""


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ""),
        ({"patches": ELSEWHERE, "references": (ELSEWHERE,)}, "patches are unlike"),
        ({"references": (ELSEWHERE,)}, "does not match its reference"),
        ({"sharpness": -7.0}, "less sharp"),
        ({"sharpness": 0.0}, "is sharper"),
        ({"brightness": 0.0}, "darker"),
        ({"brightness": 1.0}, "brighter"),
        ({"size": math.log(1280)}, "is larger"),
        ({"size": math.log(320)}, "is smaller"),
        ({"size": math.log(644)}, ""),
    ],
)
def test_each_way_of_being_far_is_named(changed: dict[str, Any], told: str) -> None:
    known, like = known_and_like(**changed)
    found = known.doubt(like)
    assert told in found and bool(found) == bool(told)


def test_an_image_that_equals_its_reference_is_no_reason_for_doubt() -> None:
    known, like = known_and_like()
    assert known.doubt(dataclasses.replace(like, references=(like.patches,))) == ""


def test_a_defect_that_covers_a_quarter_of_the_patches_is_no_reason_for_doubt() -> None:
    known, like = known_and_like()
    covered = like.patches.copy()
    covered[: SIDE**2 // 4] = 50.0
    assert known.doubt(dataclasses.replace(like, patches=covered)) == ""
    covered[: SIDE**2 // 2] = 50.0
    assert known.doubt(dataclasses.replace(like, patches=covered)) != ""


def test_the_best_of_several_references_counts_and_a_part_may_lie_a_patch_away() -> None:
    rng = np.random.default_rng(7)
    own = look(rng)
    deviation = rng.uniform(0.5, 2.0, WIDTH)
    away = match(dataclasses.replace(own, references=(ELSEWHERE,)), deviation)
    both = match(dataclasses.replace(own, references=(ELSEWHERE, own.patches)), deviation)
    assert both == 0.0 < away
    shifted = np.roll(own.patches.reshape(SIDE, SIDE, -1), (1, -1), axis=(0, 1)).reshape(SIDE**2, -1)
    assert match(dataclasses.replace(own, references=(shifted,)), deviation) < 0.05 * away
    far = np.roll(own.patches.reshape(SIDE, SIDE, -1), (3, 4), axis=(0, 1)).reshape(SIDE**2, -1)
    assert match(dataclasses.replace(own, references=(far,)), deviation) > 0.1 * away


def test_few_images_promise_no_less_than_they_can() -> None:
    rng = np.random.default_rng(2)
    known = learn(looks(rng, 19), rate=0.001)
    assert known.rate == pytest.approx(1 / 20)
    with pytest.raises(ValueError, match="3 images are too few"):
        learn(looks(rng, 3), rate=0.1)


def test_without_references_the_match_is_not_measured() -> None:
    rng = np.random.default_rng(3)
    known = learn([dataclasses.replace(one, references=()) for one in looks(rng, 30)], rate=0.1)
    assert set(known.middle) == {"patches", "sharpness", "brightness", "size"}
    assert known.doubt(Look(patches(rng), (), -3.0, 0.5, math.log(640))) == ""


def test_a_kind_of_part_that_nobody_calibrated_on_is_told() -> None:
    rng = np.random.default_rng(9)
    some = [
        dataclasses.replace(one, category=("nut", "hex bolt")[index % 2]) for index, one in enumerate(looks(rng, 40))
    ]
    known, like = learn(some, rate=0.1), some[0]
    assert known.categories == ("hex bolt", "nut")
    for category in ("nut", "hex bolt", ""):
        assert known.doubt(dataclasses.replace(like, category=category)) == ""
    other = dataclasses.replace(like, category="tile floor")
    assert "of another kind of part (tile floor)" in known.doubt(other)
    mixed = learn([*some, dataclasses.replace(like, category="")], rate=0.1)  # what the last one shows nobody knows
    assert mixed.categories == () and mixed.doubt(other) == ""


def test_what_a_fixed_camera_never_shows_is_no_reason_for_doubt_where_it_does_not_matter() -> None:
    rng = np.random.default_rng(11)
    one = look(rng)
    same = learn([one] * 20, rate=0.05)
    for drift in (
        {"brightness": one.brightness + 0.5 / 255},
        {"sharpness": one.sharpness + 0.08},
        {"size": one.size + 0.03},
    ):
        assert same.doubt(dataclasses.replace(one, **drift)) == ""
    other_light = one.patches + 0.5 / 255 * (np.arange(WIDTH) < NUM_COLOURS)
    assert same.doubt(dataclasses.replace(one, patches=other_light)) == ""
    assert "brighter" in same.doubt(dataclasses.replace(one, brightness=one.brightness + 0.1))


def test_images_without_a_reference_are_held_against_the_other_measures_alone() -> None:
    known, like = known_and_like()
    assert known.doubt(dataclasses.replace(like, references=())) == ""


def test_patches_are_measured_in_deviations_of_each_statistic() -> None:
    rng = np.random.default_rng(6)
    some = looks(rng, 40)
    scale, offset = rng.uniform(1.0, 10.0, WIDTH), rng.normal(0, 5.0, WIDTH)
    other = [
        dataclasses.replace(
            one,
            patches=one.patches * scale + offset,
            references=tuple(each * scale + offset for each in one.references),
        )
        for one in some
    ]
    one, two = learn(some, rate=0.1), learn(other, rate=0.1)
    for measure in ("patches", "match"):
        assert one.middle[measure] == pytest.approx(two.middle[measure], rel=1e-3)
    assert one.limit == pytest.approx(two.limit, rel=1e-3)


def test_a_bank_is_drawn_alike_from_all_and_distances_leave_the_farthest_quarter_out() -> None:
    rng = np.random.default_rng(4)
    many = rng.normal(0, 1, (50, 100, 3)).astype(np.float32)
    assert bank_of(many, 10**6, rng).shape == (5000, 3)
    bank = bank_of(many, 2000, rng)
    assert bank.shape == (2000, 3) and np.abs(bank.mean(axis=0)).max() < 0.1
    image = rng.normal(0, 2, (100, 3)).astype(np.float32)
    away = np.sort(np.linalg.norm(image[:, None] - bank[None], axis=-1).min(axis=1))[:75]
    np.testing.assert_allclose(distance(image, bank), away.mean(), rtol=1e-3)
