"""Unfamiliar images: the rate that is promised holds, and each way of being far is told by its name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sage_jax.metrics.familiarity import Familiarity, Look, coreset, distance, learn, look_at


def patches(rng: np.random.Generator, number: int, *, tokens: int = 6, width: int = 8) -> list[np.ndarray]:
    """Patches near one of three directions; the noise of an image is its own."""
    directions = np.eye(width)[:3]
    return [
        (directions[rng.integers(3, size=tokens)] + rng.normal(0, rng.uniform(0.05, 0.2), (tokens, width))).astype(
            np.float32
        )
        for _ in range(number)
    ]


def looks(rng: np.random.Generator, number: int) -> list[Look]:
    return [
        Look(float(rng.gamma(2.0, 0.02)), float(rng.normal(-3, 0.3)), float(rng.normal(0.5, 0.05)))
        for _ in range(number)
    ]


@pytest.mark.parametrize(("number", "rate"), [(60, 0.05), (200, 0.02)])
def test_images_like_those_of_the_calibration_are_doubted_as_rarely_as_promised(number: int, rate: float) -> None:
    shares, promised = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        known = learn(patches(rng, number), looks(rng, number), rate=rate)
        fresh = zip(patches(rng, 300), looks(rng, 300), strict=True)
        shares.append(np.mean([bool(known.doubt(*each)) for each in fresh]))
        promised.append(known.rate)
    assert max(promised) <= rate + 1e-9
    error = np.std(shares) / math.sqrt(len(shares))
    assert 0.2 * rate < np.mean(shares) < promised[0] + 3 * error


def known_and_like() -> tuple[Familiarity, np.ndarray, Look]:
    rng = np.random.default_rng(1)
    return learn(patches(rng, 100), looks(rng, 100), rate=0.01), patches(rng, 1)[0], Look(0.03, -3.0, 0.5)


def test_each_way_of_being_far_is_named() -> None:
    known, features, look = known_and_like()
    assert known.doubt(features, look) == ""
    other = np.eye(8, dtype=np.float32)[[5, 6, 7, 5, 6, 7]]
    assert "patches are unlike" in known.doubt(other, look)
    assert "does not match its reference" in known.doubt(features, Look(0.9, -3.0, 0.5))
    assert "less sharp" in known.doubt(features, Look(0.03, -7.0, 0.5))
    assert "is sharper" in known.doubt(features, Look(0.03, 0.0, 0.5))
    assert "darker" in known.doubt(features, Look(0.03, -3.0, 0.0))
    assert "brighter" in known.doubt(features, Look(0.03, -3.0, 1.0))


def test_a_map_without_any_difference_is_no_reason_for_doubt() -> None:
    known, features, _ = known_and_like()
    assert known.doubt(features, Look(0.0, -3.0, 0.5)) == ""


def test_few_images_promise_no_less_than_they_can() -> None:
    rng = np.random.default_rng(2)
    known = learn(patches(rng, 19), looks(rng, 19), rate=0.001)
    assert known.rate == pytest.approx(1 / 20)
    with pytest.raises(ValueError, match="3 images are too few"):
        learn(patches(rng, 3), looks(rng, 3), rate=0.1)


def test_without_references_the_match_is_not_measured() -> None:
    rng = np.random.default_rng(3)
    known = learn(patches(rng, 30), [Look(None, one.sharpness, one.brightness) for one in looks(rng, 30)], rate=0.1)
    assert set(known.middle) == {"patches", "sharpness", "brightness"}
    assert known.doubt(patches(rng, 1)[0], Look(None, -3.0, 0.5)) == ""


def test_a_coreset_covers_what_a_draw_of_its_size_misses() -> None:
    rng = np.random.default_rng(4)
    many = rng.normal([1, 0, 0], 0.01, (500, 3))
    rare = rng.normal([0, 0, 1], 0.01, (2, 3))
    bank = coreset([many, rare], 4, rng)
    assert bank.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-4)
    assert distance(rare, bank) < 1e-3
    np.testing.assert_allclose(distance(-rare, bank), np.mean(1 - (-_unit(rare) @ bank.T).max(1)), atol=1e-5)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_look_of_an_image_is_its_light_and_sharpness() -> None:
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    flat = np.full((32, 32, 3), 51, np.uint8)
    assert look_at(flat, None).brightness == pytest.approx(0.2)
    assert look_at(noise, 0.1).sharpness > look_at(flat, 0.1).sharpness + 3.0
    assert look_at(noise, 0.1).match == 0.1
