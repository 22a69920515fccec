"""The model under its thresholds: probability and promise as calibrated, and questions of each image's own."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.inspection.inspection_model import Threshold
from sage_jax.metrics.calibration import calibrate


def test_the_probability_is_that_of_the_calibration_and_none_without_defective_images() -> None:
    rng = np.random.default_rng(0)
    good, defective = rng.uniform(0.0, 0.5, 40), rng.uniform(0.4, 1.0, 40)
    found = calibrate(good.tolist(), defective.tolist(), false_alarm_rate=0.1)
    for score in (0.1, 0.5, 0.9):
        wanted = float(found.probability(np.array([score]))[0])
        assert Threshold(0.5, "", found, 1).probability(score) == pytest.approx(wanted)
    assert Threshold(0.5, "", calibrate(good.tolist(), [], false_alarm_rate=0.1)).probability(0.5) is None
    assert Threshold(0.5, "").probability(0.5) is None


def test_a_promise_is_for_as_many_references_as_it_was_found_with() -> None:
    found = calibrate(np.linspace(0.0, 0.5, 40).tolist(), [], false_alarm_rate=0.1)
    threshold = Threshold(0.5, "10 % or fewer", found, 2)
    assert threshold.promise_with(2) == "10 % or fewer"
    assert threshold.promise_with(1) == "none: the calibration is of images with up to 2 references, not 1"
    assert Threshold(0.5, "none: nobody chose").promise_with(3) == "none: nobody chose"
