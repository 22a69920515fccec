"""What is kept of an inspection: its checks, its risk, and how much its parts disagree."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sage_jax.corrections.entries import Correction, CorrectionFault, finding_of
from sage_jax.data.records import Box
from sage_jax.inspection.result import Inspection, unreadable
from tests.support.corrected import finding


def test_an_inspection_of_the_model_is_kept_with_all_that_it_said() -> None:
    said = Inspection(
        image="a.png",
        category="washer",
        verdict="defective",
        score=0.75,
        reason="Yes. There is a dent.",
        answers=(("Where?", "At the top."),),
        boxes=((1, 2, 3, 4, 0.5),),
    )
    kept = finding_of(said, b"png", [b"good"], threshold=0.5, model="m", source="http")
    assert (kept.image, kept.references, kept.name, kept.category) == (b"png", (b"good",), "a.png", "washer")
    assert (kept.verdict, kept.score, kept.threshold) == ("defective", 0.75, 0.5)
    assert (kept.reason, kept.answers, kept.boxes) == (said.reason, said.answers, said.boxes)
    assert (kept.model, kept.source) == ("m", "http")


def test_an_image_that_could_not_be_inspected_has_nothing_to_correct() -> None:
    with pytest.raises(CorrectionFault, match=r"a\.png: it could not be inspected"):
        finding_of(unreadable("a.png", "washer", "no image"), b"png", threshold=0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verdict": "unreadable"}, "verdict 'unreadable': give one of defective, good, unsure"),
        ({"score": 1.5}, "score 1.5: give a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"image": b""}, "the image is empty"),
    ],
)
def test_what_cannot_be_kept_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CorrectionFault, match=message):
        finding(**fields)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_risk_falls_with_the_distance_from_the_threshold_on_both_sides(threshold: float) -> None:
    for side in (np.linspace(threshold, 1.0, 20), np.linspace(threshold, 0.0, 20)):
        risks = [finding(score=float(score), threshold=threshold).risk for score in side]
        assert risks == sorted(risks, reverse=True)
        assert risks[0] == pytest.approx(1.0) and risks[-1] == pytest.approx(0.0)


def test_an_unsure_verdict_is_the_greatest_risk() -> None:
    assert finding(verdict="unsure", score=0.0).risk > finding(score=0.4999).risk
    assert finding(score=1.0, threshold=1.0, verdict="defective").risk == 1.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.0),
        ({"reason": "Yes. There is a dent."}, 1.0),
        ({"boxes": ((0, 0, 1, 1, 0.3), (0, 0, 2, 2, 0.7))}, 0.7),
        ({"boxes": ((0, 0, 1, 1, 1.8),)}, 1.0),
        ({"boxes": ((0, 0, 1, 1, 0.7),), "references": ()}, 0.0),
        ({"score": 0.9, "verdict": "defective", "reason": "Yes. A dent."}, 0.9),
        ({"score": 0.9, "verdict": "defective", "reason": "No. It is good."}, 1.9),
        ({"score": 0.9, "verdict": "defective", "reason": "Yes.", "boxes": ((0, 0, 1, 1, 0.7),)}, 0.0),
        ({"reason": "It looks good."}, 0.0),
        ({"reason": "是的，有裂纹。", "language": "zh"}, 1.0),
    ],
)
def test_contradiction_adds_up_what_disagrees(fields: dict[str, Any], expected: float) -> None:
    assert finding(**fields).contradiction == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verdict": "unsure"}, "verdict 'unsure': give one of defective, good"),
        ({"verdict": "good", "kind": "dent"}, "a good part has no defect"),
        ({"verdict": "good", "cell": "top"}, "a good part has no defect"),
        ({"box": Box(0, 0, 4, 4), "cell": "top"}, "as a box or as a cell, not as both"),
        ({"cell": "middle"}, "cell 'middle': give one of upper left, top"),
        ({"box": Box(4, 0, 4, 4)}, "left < right"),
        ({"box": Box(-1, 0, 4, 4)}, "in px from 0"),
        ({"kind": "x" * 1001}, "kind has more than 1000 characters"),
    ],
)
def test_a_correction_that_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CorrectionFault, match=message):
        dataclasses.replace(Correction(right=False, verdict="defective"), **fields)
