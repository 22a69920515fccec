"""The model under its thresholds: probability and promise as calibrated, and questions of each image's own."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.inspection.inspection_model import InspectionModel, Threshold
from sage_jax.metrics.calibration import calibrate
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.verdict import JointScore, ScoreShifts
from tests.support.tiny_run import TinyRun


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
    assert threshold.promise_with(2, "gear") == "10 % or fewer"
    assert threshold.promise_with(1, "gear") == "none: the calibration is of images with up to 2 references, not 1"
    assert Threshold(0.5, "none: nobody chose").promise_with(3, "") == "none: nobody chose"
    by_kind = Threshold(0.5, "10 % or fewer", found, 2, shifts=ScoreShifts({"gear": 1.0}))
    assert by_kind.promise_with(2, "Gear") == "10 % or fewer"
    assert by_kind.promise_with(2, "part") == (
        "none: the calibration is by kind of part, and nobody says what kind this is"
    )
    assert by_kind.promise_with(2, "screw") == "none: the calibration is of other kinds of parts than screw"


def test_the_revision_changes_with_the_threshold_and_what_it_is_of(tiny_run: TinyRun) -> None:
    model = inspection_model(Run(config_of(tiny_run.run_dir)), wanted_by="test")
    before = model.revision
    assert before == inspection_model(Run(config_of(tiny_run.run_dir)), wanted_by="test").revision
    changed = [
        Threshold(0.4, ""),
        Threshold(0.5, "", joint_score=JointScore(1.0, 1.0, 0.0)),
        Threshold(0.5, "", shifts=ScoreShifts({"gear": 1.0})),
    ]
    found = set()
    for threshold in changed:
        thresholds = {True: threshold, False: model.thresholds[False]}
        found.add(InspectionModel(model.evaluator, model.stage, thresholds, {True: None, False: None}).revision)
    assert len(found) == len(changed) and before not in found
