"""Paired differences over images and seeds, held against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.metrics.intervals import UNDEFINED
from sage_jax.metrics.paired import paired_gain


def drawn(rng: np.random.Generator, gain: float, seeds: int = 3, images: int = 60) -> tuple[list, list]:
    lower, higher = [], []
    for _ in range(seeds):
        hard = {f"i{index}": rng.normal(0.5, 1.0) for index in range(images)}
        below = {
            image: [level + rng.normal(0, 0.1) for _ in range(1 + index % 3)]
            for index, (image, level) in enumerate(hard.items())
        }
        lower.append(below)
        higher.append({image: [value + gain + rng.normal(0, 0.1) for value in row] for image, row in below.items()})
    return lower, higher


def test_the_gain_is_the_difference_of_means_over_all_values() -> None:
    lower, higher = drawn(np.random.default_rng(0), 0.2)
    flat = [[value for seed in model for row in seed.values() for value in row] for model in (lower, higher)]
    found = paired_gain(lower, higher)
    gain = float(np.mean(flat[1]) - np.mean(flat[0]))
    assert found.value == pytest.approx(gain) and found.n == 60
    assert found.low is not None and found.high is not None and found.low < gain < found.high


def test_pairing_takes_out_what_is_hard_about_an_image() -> None:
    """The values of one model vary by 1 from image to image, the differences by a tenth: so does the interval."""
    found = paired_gain(*drawn(np.random.default_rng(1), 0.1))
    assert found.low is not None and found.high is not None
    assert found.low > 0.03 and found.high - found.low < 0.1


def test_the_interval_holds_the_true_gain_about_nineteen_times_in_twenty() -> None:
    held = 0
    for trial in range(100):
        found = paired_gain(*drawn(np.random.default_rng(trial), 0.0, seeds=1), samples=300, seed=trial)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.0 <= found.high
    assert 85 <= held <= 100


def test_no_values_are_undefined_and_other_questions_an_error() -> None:
    assert paired_gain([{}], [{}]) == UNDEFINED
    with pytest.raises(ValueError, match="seed 0: the two models have not answered the same questions"):
        paired_gain([{"a": [1.0]}], [{"a": [1.0, 0.0]}])
    with pytest.raises(ValueError, match="1 and 2 seeds"):
        paired_gain([{}], [{}, {}])
