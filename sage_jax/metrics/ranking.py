"""Ranking accuracy of a policy: whether the better answer is the likelier one."""

from __future__ import annotations

import numpy as np

from sage_jax.axes import Bool, Float


def best_over_worst(
    logps: Float[np.ndarray, "*Q N"],
    answer_mask: Bool[np.ndarray, "*Q N"],
    scores: Float[np.ndarray, "*Q N"] | None = None,
) -> Float[np.ndarray, "*Q"]:
    """Whether the best answer of each question is likelier than the worst: 1, 0, or 0.5 for a tie.

    NaN where a question has fewer than two answers, or its best and worst have the same score.

    Args:
      logps: Log-probability of each answer, in rank order, best first.
      answer_mask: True where the question has an answer of that rank.
      scores: Judge scores, of which equal ones are no order; None = every rank is one.

    Raises:
      ValueError: An answer's log-probability is NaN.
    """
    packed, scored, count = _packed(logps, answer_mask, scores)
    last = np.maximum(count - 1, 0)[..., None]
    worst, lowest = (np.take_along_axis(each, last, axis=-1)[..., 0] for each in (packed, scored))
    return np.where((count >= 2) & (scored[..., 0] != lowest), _order(packed[..., 0], worst), np.nan)


def adjacent(
    logps: Float[np.ndarray, "*Q N"],
    answer_mask: Bool[np.ndarray, "*Q N"],
    scores: Float[np.ndarray, "*Q N"] | None = None,
) -> Float[np.ndarray, "*Q"]:
    """Share of each question's pairs of neighbouring ranks in which the better answer is the likelier, ties half.

    NaN where a question has no such pair. Ranks left out by the mask are stepped over, pairs of equal scores left out.

        logps [-1, -2, -4, -3]                          ->  (1 + 1 + 0) / 3
        logps [-1, -2, -4, -3], scores [5, 3, 3, 1]     ->  (1 + 0) / 2

    Raises:
      ValueError: An answer's log-probability is NaN.
    """
    packed, scored, count = _packed(logps, answer_mask, scores)
    pairs = (np.arange(packed.shape[-1] - 1) < count[..., None] - 1) & (scored[..., :-1] != scored[..., 1:])
    right = np.where(pairs, _order(packed[..., :-1], packed[..., 1:]), 0.0).sum(axis=-1)
    number = pairs.sum(axis=-1)
    return np.where(number >= 1, right / np.maximum(number, 1), np.nan)


def _packed(
    logps: np.ndarray, answer_mask: np.ndarray, scores: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities and scores with the masked answers moved behind the others, and the number of answers.

    Without scores, those of the ranks.
    """
    logps, answer_mask = np.asarray(logps, np.float64), np.asarray(answer_mask, bool)
    if np.isnan(logps[answer_mask]).any():
        raise ValueError("an answer's log-probability is NaN: the policy has diverged, score an earlier checkpoint")
    order = np.argsort(~answer_mask, axis=-1, kind="stable")
    scored = np.broadcast_to(-np.arange(logps.shape[-1]), logps.shape) if scores is None else np.asarray(scores)
    packed, scored = (np.take_along_axis(each, order, axis=-1) for each in (logps, scored))
    return packed, scored, answer_mask.sum(axis=-1)


def _order(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    return (better > worse) + 0.5 * (better == worse)
