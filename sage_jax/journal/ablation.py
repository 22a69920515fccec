"""The ablation over seeds: `ablation.json`, and its table for reading."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sage_jax.journal.summary import MODES, write_json
from sage_jax.metrics.paired import paired_gain
from sage_jax.process.files import replace_file

ABLATION_ROWS: Final = {
    "base": "Base",
    "plain": "Facts as plain text",
    "sfe": "SFE",
    "base_dpo": "DPO alone",
    "dpo": "SFE + DPO",
    "edpo": "SFE + E-DPO",
}
ABLATION_METRICS: Final = {
    "verdict_accuracy": "Accuracy",
    "acc_g": "Acc-G",
    "reason_both": "Right kind and place",
    "mle": "MLE",
}
COMPARED: Final = (
    ("base", "plain"),
    ("plain", "sfe"),
    ("base", "base_dpo"),
    ("sfe", "dpo"),
    ("dpo", "edpo"),
    ("sfe", "edpo"),
)
"""Rows of which the second adds something to the first."""
_RANGES: Final = {"mle": (1.0, 5.0)}


def write_ablation(
    folder: Path, summaries_by_seed: Mapping[int, Mapping[str, Any]], folders: Mapping[int, Path] | None = None
) -> dict[str, Any]:
    """Writes the ablation over seeds as `ablation.json` and, for reading, `ablation.md`; returns the former's content.

    `rows.<model>.<mode>.<metric>` holds the seeds' `median`, `min`, `max` and `values`, and `low` and `high`: a 95 %
    interval about the seeds' mean, of variance (mean of the seeds' own, from images) + (variance between seeds) /
    (number of seeds). The images' part does not shrink with seeds, for seeds may be scored on the same images.
    `order.<mode>` counts the seeds in which the MLE of a compared row is at least that of the row that it adds to, and
    `paired` has what it gained, paired by image, with intervals over images and seeds (`metrics.paired`).

    Args:
      folder: Where both files go.
      summaries_by_seed: Content of each seed's `summary.json`.
      folders: Each seed's run folder, with its predictions.

    Raises:
      ValueError: There is no seed.
    """
    if not summaries_by_seed:
        raise ValueError("ablation: no seed's summary was given; set ablate.seeds")
    rows: dict[str, Any] = {}
    for model in ABLATION_ROWS:
        for mode in MODES:
            entries = {
                seed: summary["metrics"].get(model, {}).get(mode, {}) for seed, summary in summaries_by_seed.items()
            }
            pooled = {name: _pooled(name, entries) for name in ABLATION_METRICS}
            rows.setdefault(model, {})[mode] = {name: value for name, value in pooled.items() if value}
    ablation = {
        "seeds": list(summaries_by_seed),
        "rows": rows,
        "order": {mode: _order(rows, mode) for mode in MODES},
        "paired": _paired(folders or {}),
    }
    write_json(folder / "ablation.json", ablation)
    replace_file(folder / "ablation.md", ablation_markdown(ablation))
    return ablation


def _paired_lines(ablation: Mapping[str, Any]) -> list[str]:
    """The paired gains as a Markdown table; none where nothing was paired."""
    if not ablation["paired"]:
        return []
    lines = ["", "| Gain, paired by image | Mode | " + " | ".join(ABLATION_METRICS.values()) + " |"]
    lines.append("|---|---" + "|---:" * len(ABLATION_METRICS) + "|")
    for (lower, higher), mode in itertools.product(COMPARED, MODES):
        cells = []
        for name in ABLATION_METRICS:
            wanted = {"lower": lower, "higher": higher, "mode": mode, "metric": name}
            found = [row for row in ablation["paired"] if wanted.items() <= row.items() and row["value"] is not None]
            cells += [f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" for row in found] or ["–"]
        if any(cell != "–" for cell in cells):
            title = f"{ABLATION_ROWS[higher]} over {ABLATION_ROWS[lower]}"
            lines.append("| " + " | ".join([title, mode.replace("_", "-"), *cells]) + " |")
    return [*lines, "", "Mean difference [95 % interval over images and seeds].", ""]


def ablation_markdown(ablation: Mapping[str, Any]) -> str:
    """The ablation as a Markdown table: median over seeds (min–max) [95 % interval], and how often the order held."""
    lines = [f"# Ablation over seeds {', '.join(map(str, ablation['seeds']))}", ""]
    headings = ["", *(f"{ABLATION_METRICS[name]}, {mode.replace('_', '-')}" for mode, name in _ablation_columns())]
    lines += ["| " + " | ".join(headings).lstrip() + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    for model, title in ABLATION_ROWS.items():
        cells = [
            _ablation_cell(ablation, model, mode, key).plain.replace("\n", " ") for mode, key in _ablation_columns()
        ]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    lines += ["", "Median over seeds (min–max) [95 % interval about the seeds' mean]; – not measured.", ""]
    lines += _paired_lines(ablation)
    for mode in MODES:
        for step in ablation["order"][mode]:
            above, below = ABLATION_ROWS[step["lower"]], ABLATION_ROWS[step["higher"]]
            lines.append(
                f"- MLE, {mode.replace('_', '-')}: {below} ≥ {above} in {step['held']} of {step['seeds']} seeds"
            )
    return "\n".join(lines) + "\n"


def ablation_tables(ablation: Mapping[str, Any]) -> RenderableType:
    """The ablation for the terminal, a table for each mode, at most 100 columns wide."""
    tables = []
    for mode in MODES:
        seeds = ", ".join(map(str, ablation["seeds"]))
        table = Table(
            title=f"Ablation over seeds {seeds}, {mode.replace('_', '-')}: median, (min–max), [95 % interval]",
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=None,
            padding=(0, 2, 0, 0),
        )
        table.add_column("Model")
        for name in ABLATION_METRICS.values():
            table.add_column(name, justify="right", no_wrap=True)
        for model, title in ABLATION_ROWS.items():
            table.add_row(title, *(_ablation_cell(ablation, model, mode, name) for name in ABLATION_METRICS))
        tables.append(table)
    return Group(*tables)


def _pooled(name: str, entries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    measured = {seed: entry[name] for seed, entry in entries.items() if entry.get(name, {}).get("value") is not None}
    if not measured:
        return None
    values = [metric["value"] for metric in measured.values()]
    within = statistics.fmean(((metric["high"] - metric["low"]) / (2 * 1.96)) ** 2 for metric in measured.values())
    between = statistics.variance(values) if len(values) > 1 else 0.0
    mean, half = statistics.fmean(values), 1.96 * math.sqrt(within + between / len(values))
    floor, ceiling = _RANGES.get(name, (0.0, 1.0))
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "low": max(floor, mean - half),
        "high": min(ceiling, mean + half),
        "values": {str(seed): metric["value"] for seed, metric in measured.items()},
    }


def _order(rows: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    """For each two compared rows, the seeds that have both and those in which the later is no worse in MLE."""
    steps = []
    for lower, higher in COMPARED:
        if "mle" in rows[lower][mode] and "mle" in rows[higher][mode]:
            before, after = rows[lower][mode]["mle"]["values"], rows[higher][mode]["mle"]["values"]
            shared = before.keys() & after.keys()
            held = sum(after[seed] >= before[seed] for seed in shared)
            steps.append({"lower": lower, "higher": higher, "held": held, "seeds": len(shared)})
    return steps


def values_by_image(predictions: Path) -> dict[str, dict[str, list[float]]]:
    """Values of a predictions file by metric and image: of each question, or for Acc-G of each record."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ABLATION_METRICS}
    records: dict[str, list[bool]] = {}
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        image, right = row["id"].rpartition("/")[0] or row["id"], row["dichotomy"] is row["ground_truth"]
        if row["ground_truth"] is not None:  # a question without a verdict is in none of these
            records.setdefault(row["id"], []).append(right)
            found["verdict_accuracy"].setdefault(image, []).append(float(right))
            if row["mle"] is not None:  # none in another language than English
                found["mle"].setdefault(image, []).append(row["mle"]["average"])
        if row["reason"] is not None and row["reason"]["both"] is not None:
            found["reason_both"].setdefault(image, []).append(float(row["reason"]["both"]))
    for record, all_right in records.items():
        found["acc_g"].setdefault(record.rpartition("/")[0] or record, []).append(float(all(all_right)))
    return found


def _paired(folders: Mapping[int, Path]) -> list[dict[str, Any]]:
    """Gains of the compared rows, paired by image, over the seeds that have both."""
    rows = []
    for (lower, higher), mode in itertools.product(COMPARED, MODES):
        files = [
            [folder / "predictions" / f"{name}_{mode}.jsonl" for name in (lower, higher)] for folder in folders.values()
        ]
        values = [[values_by_image(file) for file in pair] for pair in files if all(file.is_file() for file in pair)]
        for name in ABLATION_METRICS if values else ():
            gain = paired_gain([pair[0][name] for pair in values], [pair[1][name] for pair in values])
            about = {"lower": lower, "higher": higher, "mode": mode, "metric": name, "seeds": len(values)}
            rows.append(about | dataclasses.asdict(gain))
    return rows


def _ablation_columns() -> list[tuple[str, str]]:
    return list(itertools.product(MODES, ABLATION_METRICS))


def _ablation_cell(ablation: Mapping[str, Any], model: str, mode: str, name: str) -> Text:
    entry = ablation["rows"][model][mode].get(name)
    if entry is None:
        return Text("–", style="dim")
    digits = 2 if name == "mle" else 3
    median, low, high, least, most = (f"{entry[key]:.{digits}f}" for key in ("median", "low", "high", "min", "max"))
    return Text(median).append(f"\n({least}–{most})\n[{low}, {high}]", style="dim")
