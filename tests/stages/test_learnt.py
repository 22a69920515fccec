"""Whether a version is offered: only where nothing falls beyond noise, and where it is calibrated again."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.evaluation.before_after import Compared
from sage_jax.metrics.intervals import Metric
from sage_jax.stages.learnt import judgement, print_learnt

NONE: dict[str, Any] = {"before": None, "after": None, "fault": ""}


def measured(low: float, high: float) -> Compared:
    level = Metric(0.5, 0.4, 0.6, 20)
    return Compared(level, level, Metric((low + high) / 2, low, high, 20))


@pytest.mark.parametrize(
    ("measures", "calibration", "offered", "why"),
    [
        (
            {"corrections_held_out": (0.05, 0.2), "test_verdicts": (-0.01, 0.01)},
            NONE,
            True,
            "nothing fell beyond noise",
        ),
        ({"corrections_held_out": (0.05, 0.2), "test_verdicts": (-0.03, -0.01)}, NONE, False, "old test set (-2.0%)"),
        ({"corrections_held_out": (-0.2, -0.1)}, NONE, False, "corrections held out (-15.0%)"),
        ({"corrections_held_out": (0.0, 0.2)}, NONE, True, "too few, or changed too little, to show a gain"),
        ({}, NONE, True, "too few"),
        (
            {"test_verdicts": (0.0, 0.1)},
            NONE | {"fault": "no folder"},
            False,
            "could not be calibrated again: no folder",
        ),
    ],
)
def test_a_version_is_offered_where_nothing_falls(
    measures: dict[str, tuple[float, float]], calibration: dict[str, Any], offered: bool, why: str
) -> None:
    found = judgement({name: measured(*interval) for name, interval in measures.items()}, calibration)
    assert found[0] is offered and why in found[1]


def test_the_table_has_before_and_after_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    gain = Metric(0.25, 0.125, 0.375, 20)
    found = Compared(Metric(0.5, 0.4, 0.6, 20), Metric(0.75, 0.7, 0.8, 20), gain)
    thresholds = {"before": {"threshold": 0.25, "promised": 0.05}, "after": {"threshold": 0.5, "promised": 0.05}}
    report = {"measures": {"test_verdicts": found.as_json()}, "calibration": thresholds, "why": "offered: well"}
    print_learnt(report)
    shown = capsys.readouterr().out
    assert "50.0%   75.0%  +25.0%  +12.5% to +37.5%" in " ".join(shown.split("  ")).replace("   ", "  ") or (
        "50.0%" in shown and "75.0%" in shown and "+12.5% to +37.5%" in shown
    )
    assert "threshold before: 0.250000" in shown and "threshold after: 0.500000" in shown and "offered: well" in shown
