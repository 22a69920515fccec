"""Verdicts at the threshold of a promise, as the benchmark counts them."""

from __future__ import annotations

import numpy as np

from bench.calibrated import at_its_threshold


def test_verdicts_are_counted_at_the_conformal_threshold() -> None:
    good = np.linspace(0.0, 0.38, 39)  # 2 of 40 may lie above: the threshold is just above the second highest, 0.37
    shown = np.array([0.1, 0.3, 0.375, 0.2, 0.5, 0.36, 0.9])
    labels = np.array([False, False, False, False, True, True, True])
    found = at_its_threshold(good, shown, labels, rate=0.05)
    assert found == {"auroc": round(11 / 12, 4), "right": round(5 / 7, 3), "false_alarms": 0.25, "escapes": 0.333}
