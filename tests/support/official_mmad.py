"""MMAD's official evaluator, written out from what its loop does: the reference for the number that it would give."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def official_table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy in percent by data set and type, with their averages, from rows of an answer file."""

    def kind_of(row: dict[str, Any]) -> str:
        joined = row["question_type"] in ("Object Structure", "Object Details")
        return "Object Analysis" if joined else row["question_type"]

    def dataset_of(row: dict[str, Any]) -> str:
        return row["image"].split("/")[0]

    datasets, kinds = [], []
    for row in rows:
        datasets += [dataset_of(row)] if dataset_of(row) not in datasets else []
        kinds += [kind_of(row)] if kind_of(row) not in kinds else []
    walked, counted = [dict(row, number=number) for number, row in enumerate(rows)], []
    for row in walked:  # the list shrinks while it is walked through: that is the fault to reproduce
        if row["correct_answer"] not in list("ABCDE") or row["gpt_answer"] not in list("ABCDE"):
            walked.remove(row)
            continue
        counted.append(row)

    def percent(some: list[dict[str, Any]]) -> float:
        return 100 * sum(row["correct_answer"] == row["gpt_answer"] for row in some) / len(some) if some else 0.0

    table: dict[str, dict[str, float]] = {}
    for name in datasets:
        own = [row for row in counted if dataset_of(row) == name]
        table[name] = {kind: percent([row for row in own if kind_of(row) == kind]) for kind in kinds}
        detected = [row for row in own if kind_of(row) == "Anomaly Detection"]
        if "Anomaly Detection" in kinds:
            normal = percent([row for row in detected if "good" in row["image"]])
            abnormal = percent([row for row in detected if "good" not in row["image"]])
            table[name]["Anomaly Detection"] = (normal + abnormal) / 2
        table[name]["Average"] = statistics.fmean(table[name][kind] for kind in kinds)
    table["Average"] = {
        column: statistics.fmean(table[name][column] for name in datasets) for column in [*kinds, "Average"]
    }
    return table
