"""The tables of a summary, read back from what is printed."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from sage_jax.journal import summary as summary_module
from sage_jax.journal import tables
from sage_jax.journal.tables import summary_tables

ENTRY = {"value": 0.8125, "low": 0.75, "high": 0.85, "n": 16}


def printed(summary: dict[str, Any]) -> list[str]:
    said = io.StringIO()
    Console(width=100, file=said, color_system=None).print(summary_tables(summary))
    return said.getvalue().splitlines()


def test_every_metric_has_a_column_and_every_column_a_metric() -> None:
    columns = [tables.REASON_METRICS, tables.DETECTION_METRICS, tables.PIXEL_METRICS]
    columns += [tables.MLE_METRICS, tables.RANKING_METRICS]
    named = [name for each in columns for name in each]
    assert len(named) == len(set(named)) and set(named) == set(summary_module.METRICS)
    assert set(tables.JUDGED_METRICS) == set(summary_module.JUDGED_METRICS)


def test_a_value_stands_with_half_its_interval_and_what_was_not_measured_as_a_dash() -> None:
    entry = {"verdict_accuracy": ENTRY, "mle": {**ENTRY, "value": None}, "data": "boards", "revision": "a" * 40}
    said = printed({"stages": {}, "metrics": {"sfe": {"one_shot": entry}}})
    rows = [line.split() for line in said if line.startswith("sfe")]
    assert len(rows) == 4 and all(row[:2] == ["sfe", "one-shot"] for row in rows)
    assert "0.812" in rows[0] and rows[2][2] == "–"
    assert any("±0.050" in line for line in said)
    assert said[0] == f"Test data: boards, revision {'a' * 12}"


def test_models_and_modes_come_in_their_order_and_a_model_is_named_once() -> None:
    metrics = {name: {mode: {"auroc": ENTRY} for mode in ("one_shot", "zero_shot")} for name in ("edpo", "sfe")}
    said = printed({"stages": {}, "metrics": metrics})
    start = said.index(next(line for line in said if line.startswith("Detection")))
    rows = [line.split()[:2] for line in said[start:] if "-shot" in line][:4]
    assert [row[0] for row in rows] == ["sfe", "one-shot", "edpo", "one-shot"]
    assert rows[0][1] == rows[2][1] == "zero-shot"


def test_the_rivals_stand_below() -> None:
    entry = {
        "verdict_accuracy": ENTRY,
        "best_constant": {"kind": 0.25, "place": None},
        "accuracy_by_kind": {"standard comparison": ENTRY},
        "text_only": {"standard comparison": {"accuracy": 0.5}},
        "unparsable": 3,
    }
    said = printed({"stages": {}, "metrics": {"sfe": {"zero_shot": entry}}})
    assert "One and the same answer to all images gets at best: kind 0.250." in said
    assert not any("Without" in line for line in said)
    asked = printed({"stages": {}, "metrics": {"sfe": {"zero_shot": {**entry, "without_verdict": 7}}}})
    assert any("Without" in line for line in asked)
    assert any(line.split()[-2:] == ["7", "3"] or line.split()[-3:-1] == ["7", "3"] for line in asked)
    (alone,) = [line for line in said if line.startswith("question alone")]
    assert alone.split()[2] == "0.500"


def test_what_was_judged_has_a_table_of_its_own_and_what_was_not_is_not_in_it() -> None:
    judged = {"judge": ENTRY, "judge_variance": {**ENTRY, "value": None}, "judge_kappa_logic": ENTRY}
    told = {"judged": {"model": "judge-1", "repetitions": 1, "failed": 7}}
    metrics = {"base": {"one_shot": {"auroc": ENTRY}}, "sfe": {"one_shot": {**judged, **told}}}
    said = printed({"stages": {}, "metrics": metrics})
    start = said.index(next(line for line in said if line.startswith("MLE by a language model")))
    end = said.index("Judged by judge-1, 1 judgement of each answer.")
    assert not any(line.startswith("base") for line in said[start:end]) and max(map(len, said)) <= 100
    (row,) = [line.split() for line in said[start:end] if line.startswith("sfe")]
    assert (row[2], row[6], row[9], row[-1]) == ("0.812", "–", "0.812", "7")
    unjudged = printed({"stages": {}, "metrics": {"base": {"one_shot": {"auroc": ENTRY}}}})
    assert not any("language model" in line for line in unjudged)


def test_costs_are_minutes_and_gigabytes_and_nothing_says_what_to_run() -> None:
    said = printed({"stages": {"sfe": {"seconds": 125.4, "peak_memory_gb": 3.219}}, "metrics": {}})
    assert said[-1].split() == ["sfe", "2", "min", "05", "s", "3.22", "GB"]
    assert printed({"stages": {}, "metrics": {}}) == ["Nothing measured yet: run the stage evaluate."]


def test_several_categories_have_a_table_with_their_means() -> None:
    metric = {"value": 0.75, "low": 0.7, "high": 0.8, "n": 9}
    by_category = {name: dict.fromkeys(tables.CATEGORY_METRICS, metric) for name in ("nut", "screw")}
    entry = {"auroc": metric, "detection_by_category": by_category, "detection_means": {"aupro": 0.654}}
    lines = printed({"stages": {}, "metrics": {"sfe": {"one_shot": entry}}})
    assert any(line.startswith("Detection by category, sfe, one-shot") for line in lines)
    rows = [line.split() for line in lines if line.startswith(("nut", "screw", "mean"))]
    assert [row[0] for row in rows] == ["nut", "screw", "mean"]
    assert rows[0][1:] == ["0.750"] * 5 and "0.654" in rows[2]
