"""Detection of defective images by the anomaly score: AUROC, average precision, F1."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from sage_jax.axes import Bool, Float
from sage_jax.metrics.intervals import UNDEFINED, Metric, Statistic, bootstrap


def detection_metrics(
    scores: Sequence[float] | Float[np.ndarray, " n"],
    labels: Sequence[bool] | Bool[np.ndarray, " n"],
    groups: Sequence[Hashable],
    *,
    threshold: float = 0.5,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Metric]:
    """`auroc`, `average_precision`, `f1` and `f1_max` of anomaly scores, each 0 to 1 with its interval over groups.

    `f1` is that of the threshold, `f1_max` that of the best one, which knows the labels. All are undefined (None,
    n = 0) where all examples are of one class.

    Args:
      scores: Anomaly scores, larger = more likely defective.
      labels: True = defective.
      groups: Image of each example.
      threshold: Score from which an example counts as found, for F1.

    Raises:
      ValueError: Lengths differ, or a score is not finite.
    """
    score_array, label_array = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if not len(score_array) == len(label_array) == len(groups):
        raise ValueError(
            f"{len(score_array)} scores, {len(label_array)} labels, {len(groups)} groups: give one of each per example"
        )
    from sklearn import metrics as sklearn_metrics  # a second to import, which inspection does not need

    if not np.isfinite(score_array).all():
        bad = int(np.flatnonzero(~np.isfinite(score_array))[0])
        raise ValueError(f"anomaly score {bad} is {score_array[bad]}: scores must be finite")
    if label_array.all() or not label_array.any():
        return {name: UNDEFINED for name in ("auroc", "average_precision", "f1", "f1_max")}
    order = np.argsort(-score_array, kind="stable")
    descending, positive = score_array[order], label_array[order]
    ordered_groups = [groups[index] for index in order]
    statistics = {
        "auroc": weighted_auroc(descending, positive),
        "average_precision": weighted_average_precision(descending, positive),
        "f1": weighted_f1(descending, positive, threshold),
        "f1_max": weighted_f1_max(descending, positive),
    }
    values = {
        "auroc": sklearn_metrics.roc_auc_score(label_array, score_array),
        "average_precision": sklearn_metrics.average_precision_score(label_array, score_array),
        "f1": sklearn_metrics.f1_score(label_array, score_array >= threshold),
    }
    results = {}
    for name, statistic in statistics.items():
        drawn = bootstrap(statistic, ordered_groups, samples=samples, seed=seed)
        results[name] = drawn if name not in values else Metric(float(values[name]), drawn.low, drawn.high, drawn.n)
    return results


def auroc_gain(
    scores: Sequence[float],
    others: Sequence[float],
    labels: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Metric:
    """What the AUROC of some scores has over that of others on the same examples, -1 to 1, drawn in pairs.

    Args:
      scores, others: Anomaly scores of each example.
      labels: True = defective.
      groups: Image of each example.
    """
    positive = np.asarray(labels, bool)
    if positive.all() or not positive.any():
        return UNDEFINED
    orders = [np.argsort(-np.asarray(each, np.float64), kind="stable") for each in (scores, others)]
    each = [
        weighted_auroc(np.asarray(values, np.float64)[order], positive[order])
        for values, order in zip((scores, others), orders, strict=True)
    ]

    def statistic(weights: np.ndarray) -> np.ndarray:
        ours, theirs = (auroc(weights[:, order]) for auroc, order in zip(each, orders, strict=True))
        return ours - theirs

    return bootstrap(statistic, groups, samples=samples, seed=seed)


def weighted_auroc(descending: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Statistic:
    """AUROC of weighted examples: the weighted share of (defective, good) pairs in the right order, ties half.

    Args:
      descending: Scores, largest first.
      positive: True = defective, in the same order.
    """
    ends = _tie_ends(descending)

    def statistic(weights: np.ndarray) -> np.ndarray:
        found, false_alarms = _cumulated(weights, positive, ends)
        # Trapezoids of the ROC curve: a tie of both classes gives the half point of its slope.
        area = (np.diff(false_alarms, prepend=0.0) * (found + _shifted(found)) / 2).sum(axis=-1)
        return _divide(area, found[:, -1] * false_alarms[:, -1])

    return statistic


def weighted_average_precision(descending: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Statistic:
    """Average precision of weighted examples: precision at each threshold, weighted by the recall gained there."""
    ends = _tie_ends(descending)

    def statistic(weights: np.ndarray) -> np.ndarray:
        found, false_alarms = _cumulated(weights, positive, ends)
        precision = found / np.maximum(found + false_alarms, 1e-12)
        average = _divide((np.diff(found, prepend=0.0) * precision).sum(axis=-1), found[:, -1])
        return np.where(false_alarms[:, -1] > 0, average, np.nan)

    return statistic


def weighted_f1(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], threshold: float) -> Statistic:
    """F1 of weighted examples: the harmonic mean of precision and recall at a threshold; NaN without any defective."""
    called = scores >= threshold

    def statistic(weights: np.ndarray) -> np.ndarray:
        hits = weights @ (called & positive).astype(np.float64)
        real = weights @ positive.astype(np.float64)
        total = weights @ called.astype(np.float64) + real
        return np.where((real > 0) & (real < weights.sum(axis=-1)), _divide(2 * hits, total), np.nan)

    return statistic


def weighted_f1_max(descending: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Statistic:
    """F1 of weighted examples at the threshold that makes it largest; NaN where all are of one class."""
    ends = _tie_ends(descending)

    def statistic(weights: np.ndarray) -> np.ndarray:
        found, false_alarms = _cumulated(weights, positive, ends)
        f1 = (2 * found / np.maximum(found + false_alarms + found[:, -1:], 1e-12)).max(axis=-1)
        return np.where((found[:, -1] > 0) & (false_alarms[:, -1] > 0), f1, np.nan)

    return statistic


def _tie_ends(descending: np.ndarray) -> np.ndarray:
    """Last index of each run of equal scores."""
    return np.flatnonzero(np.append(np.diff(descending) != 0, True))


def _cumulated(weights: np.ndarray, positive: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of defective and of good examples at or above each threshold."""
    found = np.cumsum(weights * positive, axis=-1, dtype=np.float64)[:, ends]
    false_alarms = np.cumsum(weights * ~positive, axis=-1, dtype=np.float64)[:, ends]
    return found, false_alarms


def _shifted(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(values[:, :1]), values[:, :-1]], axis=-1)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full_like(denominator, np.nan, dtype=np.float64), where=denominator > 0
    )
