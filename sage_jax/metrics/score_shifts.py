"""Kinds of parts calibrated each by itself: shifts of their scores that lay the thresholds of all on one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from sage_jax.axes import Float
from sage_jax.metrics.calibration import RESOLUTION, CalibrationError, conformal_threshold, log_odds
from sage_jax.metrics.joint_score import SMALLEST
from sage_jax.verdict import ScoreShifts


def learn_shifts(good: Mapping[str, Sequence[float]], *, false_alarm_rate: float) -> ScoreShifts:
    """Shifts with which the threshold of every kind lies at one half; none where there are fewer than two kinds.

    A kind is calibrated by itself where it has enough good images for the rate, and where they score less than
    defective ones can; all others together have the threshold of all images.

    Args:
      good: Anomaly scores, 0 to 1, of good images by kind of part.
      false_alarm_rate: The rate to promise.

    Raises:
      CalibrationError: A kind can be calibrated by itself, but all images together score as high as scores can.
    """
    if len(good) < 2:
        return ScoreShifts()
    thresholds = {}
    for category, scores in good.items():
        try:
            thresholds[category] = conformal_threshold(np.asarray(scores, np.float64), false_alarm_rate)[0]
        except CalibrationError:
            continue
    if not thresholds:
        return ScoreShifts()
    together = conformal_threshold(np.concatenate([np.asarray(each) for each in good.values()]), false_alarm_rate)[0]
    highest = 1.0 - RESOLUTION
    found = {name: -float(special.logit(value)) for name, value in thresholds.items() if value <= highest}
    return ScoreShifts(found, -float(special.logit(min(together, highest)))) if found else ScoreShifts()


def shifted(scores: Sequence[float], shift: float) -> Float[np.ndarray, " n"]:
    """Scores with so much added to their log-odds."""
    return special.expit(log_odds(np.asarray(scores), SMALLEST) + shift)
