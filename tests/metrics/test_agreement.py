"""Weighted kappa against its definition and scikit-learn's, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from sage_jax.metrics.agreement import weighted_kappa
from sage_jax.metrics.intervals import UNDEFINED


def by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """1 - observed over expected squared disagreement (Cohen 1968)."""
    observed = np.mean((first - second) ** 2)
    expected = np.mean((first[:, None] - second[None, :]) ** 2)
    return float(1 - observed / expected)


@pytest.mark.parametrize("seed", range(20))
def test_kappa_is_that_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 6, 80)
    second = np.where(rng.random(80) < seed / 20, first, rng.integers(1, 6, 80))
    groups = [f"image {i}" for i in rng.integers(0, 15, 80)]
    found = weighted_kappa(first.tolist(), second.tolist(), groups, samples=100)
    assert found.value == pytest.approx(by_definition(first, second), abs=1e-12)
    assert found.value == pytest.approx(cohen_kappa_score(first, second, weights="quadratic", labels=range(1, 6)))
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low <= found.value <= found.high and found.n == 80


def test_draws_are_of_whole_groups() -> None:
    first, second, groups = [1, 5, 2, 4, 3, 3], [1, 4, 2, 4, 1, 5], ["a", "a", "b", "b", "c", "c"]
    found = weighted_kappa(first, second, groups, samples=400, seed=1)
    counts = np.random.default_rng(1).multinomial(3, np.full(3, 1 / 3), size=400)
    marks = np.array([first, second])
    values = []
    for row in counts:
        drawn = marks[:, np.repeat(np.arange(6), np.repeat(row, 2))]
        if len(np.unique(drawn)) > 1:
            values.append(by_definition(*drawn.astype(float)))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-9)


def test_halves_are_rounded_up_and_extremes_are_what_they_should_be() -> None:
    assert weighted_kappa([2.5, 4.5, 1.0], [3, 5, 1], "abc").value == 1.0
    assert weighted_kappa([1, 5], [5, 1], "ab").value == -1.0
    assert weighted_kappa([3, 3, 3], [3, 3, 3], "abc") == UNDEFINED
    assert weighted_kappa([3, 3, 3], [1, 3, 5], "abc").value == 0.0
    assert weighted_kappa([], [], []) == UNDEFINED


def test_what_is_no_mark_is_refused() -> None:
    for first, second, groups in (([6], [1], "a"), ([0.2], [1], "a"), ([1, 2], [1], "a"), ([1], [1], "ab")):
        with pytest.raises(ValueError, match="give"):
            weighted_kappa(first, second, groups)
