"""A threshold with a promise behind it, from scores of images that were not trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import optimize, special

from sage_jax.axes import Bool, Float
from sage_jax.errors import UserError

RESOLUTION: Final = 1e-6
"""Smallest step between scores that the threshold tells apart."""

_RATES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_FOLDS: Final = 5
_CONFIDENCE: Final = 0.95
_BINS: Final = 10


class CalibrationError(UserError):
    """Scores that do not support what is asked of them."""


@dataclasses.dataclass(frozen=True)
class Trade:
    """What one threshold would give.

    Attributes:
      threshold: Score from which an image is called defective.
      promised: Highest expected rate of false alarms, that of conformal prediction.
      escapes: Share of the labelled defective images below it; None without any.
    """

    threshold: float
    promised: float
    escapes: float | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A threshold, and what may be promised of it.

    Attributes:
      threshold: Score from which an image is called defective.
      false_alarm_rate: The rate that was asked for.
      escape_rate: The rate of escapes that was asked for; 0 = none.
      promised: Highest expected rate of false alarms on good images like those of the calibration: k / (n + 1).
      num_good, num_defective: Images of the calibration.
      false_alarms, escapes: Of them, good ones at or above the threshold, and defective ones below it.
      escape_bound: Upper 95 % bound of Clopper and Pearson on the rate of escapes; None without defective images.
      slope, intercept: Of the probability of a defect, sigmoid(slope * log-odds of the score + intercept) (Platt 1999);
        None without defective images.
      calibration_error: Expected calibration error of that probability in ten bins, cross-fitted; None likewise.
      trades: Other thresholds.
    """

    threshold: float
    false_alarm_rate: float
    escape_rate: float
    promised: float
    num_good: int
    num_defective: int
    false_alarms: int
    escapes: int
    escape_bound: float | None
    slope: float | None
    intercept: float | None
    calibration_error: float | None
    trades: tuple[Trade, ...]

    def probability(self, scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Calibrated probability of a defect.

        Raises:
          CalibrationError: It was calibrated on good images alone.
        """
        if self.slope is None or self.intercept is None:
            raise CalibrationError("a probability needs defective images in the calibration: good ones alone give none")
        return special.expit(self.slope * log_odds(scores) + self.intercept)


def calibrate(
    good: Sequence[float],
    defective: Sequence[float],
    *,
    false_alarm_rate: float,
    escape_rate: float = 0.0,
    groups: Sequence[Sequence[float]] = (),
) -> Calibration:
    """The lowest threshold of which a rate of false alarms can be promised, and what else the scores tell.

    With an escape rate it is the highest threshold that keeps that one, with 95 % confidence, if it keeps the rate of
    false alarms as well. The share of a distribution below the k-th lowest of m draws of it is a Beta variable,
    whatever the distribution (Wilks 1941); its bound is that of Clopper and Pearson on k - 1 of m.

    Split conformal prediction (Vovk et al. 2005): a further good image, drawn as the n were, scores above the k-th
    highest of them with a probability of at most k / (n + 1), whatever the scores' distribution.

    With groups the rate is promised of each by itself: the threshold is the highest of theirs (Mondrian conformal
    prediction, Vovk et al. 2005).

    Args:
      good: Anomaly scores, 0 to 1, of good images.
      defective: Of defective ones; may be empty.
      false_alarm_rate: Share of good images that may be called defective, above 0 and below 1.
      escape_rate: Share of defective images that may be called good, above 0 and below 1; 0 = not asked for.
      groups: Scores of good images of one kind each, some or all of `good`; none = all are one group.

    Raises:
      CalibrationError: There are too few images for a rate, no threshold keeps both rates, or the scores of good images
        are as high as scores can be.
    """
    ordered, missed = np.sort(np.asarray(good, np.float64))[::-1], np.asarray(defective, np.float64)
    count, apart = len(ordered), [np.asarray(each, np.float64) for each in groups] or [ordered]
    each_promises = [conformal_threshold(scores, false_alarm_rate) for scores in apart]
    threshold, promised = (max(values) for values in zip(*each_promises, strict=True))
    if escape_rate:
        threshold = _keeping_escapes(missed, escape_rate, at_least=threshold, ordered=ordered)
    escapes = int(np.sum(missed < threshold))
    labels = np.repeat([False, True], [count, len(missed)])
    scores = np.concatenate([ordered, missed])
    slope, intercept = _platt(scores, labels) if len(missed) else (None, None)
    return Calibration(
        threshold=threshold,
        false_alarm_rate=false_alarm_rate,
        escape_rate=escape_rate,
        promised=promised,
        num_good=count,
        num_defective=len(missed),
        false_alarms=int(np.sum(ordered >= threshold)),
        escapes=escapes,
        escape_bound=clopper_pearson(escapes, len(missed)) if len(missed) else None,
        slope=slope,
        intercept=intercept,
        calibration_error=_cross_fitted_error(scores, labels) if min(count, len(missed)) >= _FOLDS else None,
        trades=_trades(apart, missed),
    )


def conformal_threshold(good: Float[np.ndarray, " n"], rate: float) -> tuple[float, float]:
    """The lowest threshold of which a rate of false alarms can be promised of good images, and what it promises.

    Raises:
      CalibrationError: There are too few images for the rate, or their scores are as high as scores can be.
    """
    ordered, count = np.sort(np.asarray(good, np.float64))[::-1], len(good)
    allowed = _allowed(count, rate)
    if allowed < 1:
        raise CalibrationError(
            f"{count} good images promise a rate of false alarms of {1 / (count + 1):.4f} at best, not "
            f"{rate:g}: give {math.ceil(1 / rate) - 1} or more, or ask for a higher rate"
        )
    threshold = _above(ordered[allowed - 1])
    if threshold > 1.0:
        raise CalibrationError(
            f"{allowed} of {count} good images score {ordered[allowed - 1]:g}, as high as a defective one can: "
            "the model does not know these parts; train it on them"
        )
    return threshold, allowed / (count + 1)


def supports(num_good: int, num_defective: int, *, false_alarm_rate: float, escape_rate: float) -> bool:
    """Whether so many images can promise such rates at all."""
    kept = not escape_rate or (num_defective > 0 and clopper_pearson(0, num_defective) <= escape_rate)
    return kept and _allowed(num_good, false_alarm_rate) >= 1


def _keeping_escapes(missed: np.ndarray, rate: float, *, at_least: float, ordered: np.ndarray) -> float:
    """The highest threshold that keeps a rate of escapes, not below the one that keeps the rate of false alarms."""
    count = len(missed)
    kept = [found for found in range(count) if clopper_pearson(found, count) <= rate]
    if not kept:
        least = math.ceil(math.log(1.0 - _CONFIDENCE) / math.log1p(-rate))
        raise CalibrationError(
            f"{count} defective images promise no rate of escapes as low as {rate:g}: give {least} or more, or ask for "
            "a higher rate"
        )
    highest = max(0.0, (math.floor(np.sort(missed)[kept[-1]] / RESOLUTION + 1e-6) - 1) * RESOLUTION)
    if highest < at_least:
        alarms = int(np.sum(ordered >= highest))
        raise CalibrationError(
            f"escapes are kept to {rate:g} by thresholds up to {highest:.6f}, at which {alarms} of {len(ordered)} good "
            f"images are called defective; the rate of false alarms is kept from {at_least:.6f} on: ask for a higher "
            "rate of one of the two, or train the model further"
        )
    return highest


def clopper_pearson(found: int, count: int, *, confidence: float = _CONFIDENCE) -> float:
    """Upper bound on a rate of which `found` of `count` independent draws were seen (Clopper and Pearson 1934)."""
    return 1.0 if found >= count else float(special.betaincinv(found + 1, count - found, confidence))


def expected_calibration_error(
    probabilities: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], *, bins: int = _BINS
) -> float:
    """Mean distance of probability and frequency over bins of one width, weighted by their images (Guo et al. 2017)."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    sums = np.zeros(bins)
    np.add.at(sums, which, probabilities - labels)
    return float(np.abs(sums).sum() / len(labels))


def _allowed(count: int, rate: float) -> int:
    """Good images of the calibration that may lie above the threshold, and one more."""
    return math.floor(rate * (count + 1) + 1e-9)


def _above(score: float) -> float:
    """The lowest threshold at which a score is not yet called defective."""
    return math.floor(score / RESOLUTION + 1.5) * RESOLUTION


def _trades(groups: Sequence[np.ndarray], missed: np.ndarray) -> tuple[Trade, ...]:
    found = []
    for rate in _RATES:
        try:
            each_promises = [conformal_threshold(scores, rate) for scores in groups]
        except CalibrationError:
            continue
        threshold, promised = (max(values) for values in zip(*each_promises, strict=True))
        found.append(Trade(threshold, promised, float(np.mean(missed < threshold)) if len(missed) else None))
    return tuple(dict.fromkeys(found))


def log_odds(scores: Float[np.ndarray, " n"], smallest: float = RESOLUTION) -> Float[np.ndarray, " n"]:
    """Log-odds of scores, kept finite by telling those nearer to 0 and 1 than `smallest` apart no further."""
    return special.logit(np.clip(np.asarray(scores, np.float64), smallest, 1.0 - smallest))


def _platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Platt's sigmoid on log-odds, with his smoothed targets, which keep them finite."""
    odds, positive = log_odds(scores), int(labels.sum())
    targets = np.where(labels, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logits = values[0] * odds + values[1]
        error = special.expit(logits) - targets
        return float(np.sum(np.logaddexp(0.0, logits) - targets * logits)), np.array([error @ odds, error.sum()])

    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(found[0]), float(found[1])


def _cross_fitted_error(scores: np.ndarray, labels: np.ndarray) -> float:
    """Calibration error of probabilities of images that the sigmoid was not fitted on."""
    fold = np.zeros(len(labels), int)
    for label in (False, True):
        indices = np.flatnonzero(labels == label)
        fold[indices] = np.random.default_rng(0).permutation(len(indices)) % _FOLDS
    probabilities = np.zeros(len(labels))
    for part in range(_FOLDS):
        slope, intercept = _platt(scores[fold != part], labels[fold != part])
        probabilities[fold == part] = special.expit(slope * log_odds(scores[fold == part]) + intercept)
    return expected_calibration_error(probabilities, labels)
