"""What runs of several seeds found, side by side: each value, their median, and the change that stage 2 brought.

    python -m bench.seeds runs/deeppcb_0 runs/deeppcb_1 runs/deeppcb_2
    python -m bench.seeds --mode zero_shot runs/deeppcb_*

Reads `summary.json` and the predictions of finished runs of one data set; nothing is computed anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Final

STAGES: Final = ("sfe", "edpo")
METRICS: Final = (
    "reason_kind",
    "reason_place",
    "reason_both",
    "named_though_good",
    "consistency",
    "verdict_accuracy",
    "is there a defect",
    "defect identification",
    "defect diagnosis",
    "kinds_told_apart",
    "acc_g",
    "mle",
    "auroc",
    "map_auroc",
    "difference_auroc",
    "pixel_auroc",
    "difference_pixel_auroc",
    "ranking_adjacent",
)
_INSPECTION: Final = "Is there a defect in this part?"


def values_of(run: Path, stage: str, mode: str) -> dict[str, float]:
    """The metrics of a stage of a run; empty where it was not evaluated."""
    entry: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"]
    found = entry.get(stage, {}).get(mode, {})
    values = {name: found[name]["value"] for name in METRICS if name in found and found[name]["value"] is not None}
    values |= {name: each["value"] for name, each in found.get("accuracy_by_kind", {}).items() if name in METRICS}
    predictions = run / "predictions" / f"{stage}_{mode}.jsonl"
    if found and predictions.is_file():
        rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
        right = [row["ground_truth"] == row["dichotomy"] for row in rows if row["question"] == _INSPECTION]
        if right:
            values["is there a defect"] = statistics.mean(right)
    return values


def table(runs: list[Path], mode: str) -> list[str]:
    """Lines of a Markdown table: each metric with its values by stage, the medians, and the median change."""
    found = {stage: [values_of(run, stage, mode) for run in runs] for stage in STAGES}
    lines = [f"| {mode} | SFE | median | E-DPO | median | median of the change |", "|---|---|---|---|---|---|"]
    for name in METRICS:
        each = {stage: [values[name] for values in found[stage] if name in values] for stage in STAGES}
        if not all(len(each[stage]) == len(runs) for stage in STAGES):
            continue
        cells = [part for stage in STAGES for part in (_listed(each[stage]), f"{statistics.median(each[stage]):.3f}")]
        change = statistics.median(after - before for before, after in zip(each["sfe"], each["edpo"], strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} | {change:+.3f} |")
    return lines


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one for each seed")
    parser.add_argument("--mode", choices=("one_shot", "zero_shot"), default="one_shot")
    options = parser.parse_args()
    print("\n".join(table(options.runs, options.mode)))


if __name__ == "__main__":
    main()
