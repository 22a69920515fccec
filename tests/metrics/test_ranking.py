"""Ranking accuracy of answers' log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.metrics.ranking import adjacent, best_over_worst


def plain(logps: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Best over worst, and adjacent, of one question, by loops."""
    kept = [float(value) for value, keep in zip(logps, mask, strict=True) if keep]
    if len(kept) < 2:
        return float("nan"), float("nan")

    def order(better: float, worse: float) -> float:
        return 1.0 if better > worse else 0.5 if better == worse else 0.0

    pairs = [order(kept[index], kept[index + 1]) for index in range(len(kept) - 1)]
    return order(kept[0], kept[-1]), sum(pairs) / len(pairs)


def test_both_equal_loops_on_random_answers_with_ties_and_gaps():
    generator = np.random.default_rng(0)
    logps = np.round(generator.normal(size=(50, 5, 4)) * 2) / 2
    mask = generator.random((50, 5, 4)) < 0.7
    extreme, neighbours = best_over_worst(logps, mask), adjacent(logps, mask)
    assert extreme.shape == neighbours.shape == (50, 5)
    for index in np.ndindex(50, 5):
        expected = plain(logps[index], mask[index])
        np.testing.assert_allclose((extreme[index], neighbours[index]), expected)
    assert {0.0, 0.5, 1.0} <= set(extreme[~np.isnan(extreme)].tolist())


def test_answers_of_equal_scores_are_no_order():
    logps = np.array([[-1.0, -2.0, -4.0, -3.0], [-1.0, -2.0, np.nan, np.nan], [-2.0, -1.0, -3.0, np.nan]])
    mask = np.isfinite(logps)
    scores = np.array([[5.0, 3.0, 3.0, 1.0], [2.0, 2.0, 0.0, 0.0], [5.0, 5.0, 1.0, 0.0]])
    np.testing.assert_array_equal(adjacent(logps, mask, scores), [0.5, np.nan, 1.0])
    np.testing.assert_array_equal(best_over_worst(logps, mask, scores), [1.0, np.nan, 1.0])
    falling = np.broadcast_to([4.0, 3.0, 2.0, 1.0], logps.shape)
    np.testing.assert_array_equal(adjacent(logps, mask, falling), adjacent(logps, mask))
    np.testing.assert_array_equal(best_over_worst(logps, mask, falling), best_over_worst(logps, mask))


def test_values_under_the_mask_change_nothing():
    generator = np.random.default_rng(1)
    logps, mask = generator.normal(size=(20, 4)), generator.random((20, 4)) < 0.6
    other = np.where(mask, logps, np.nan)
    np.testing.assert_array_equal(adjacent(logps, mask), adjacent(other, mask))
    np.testing.assert_array_equal(best_over_worst(logps, mask), best_over_worst(other, mask))


def test_reversed_order_gives_the_complement():
    logps = np.random.default_rng(2).normal(size=(30, 4))
    mask = np.ones((30, 4), bool)
    np.testing.assert_allclose(adjacent(logps, mask) + adjacent(logps[:, ::-1], mask), 1.0)
    np.testing.assert_allclose(best_over_worst(logps, mask) + best_over_worst(logps[:, ::-1], mask), 1.0)


def test_single_question_gives_a_scalar():
    assert best_over_worst(np.array([-1.0, -3.0]), np.ones(2, bool)).item() == 1.0


def test_a_diverged_policy_is_an_error():
    with pytest.raises(ValueError, match="diverged"):
        adjacent(np.array([np.nan, 0.0]), np.ones(2, bool))
