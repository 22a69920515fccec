"""The ablation over seeds: `ablation.json`, and its table for reading."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from sage_jax.journal.summary import MODES, write_json
from sage_jax.process.files import replace_file

ABLATION_ROWS: Final = {
    "base": "Base",
    "plain": "Facts as plain text",
    "sfe": "SFE",
    "base_dpo": "DPO alone",
    "dpo": "SFE + DPO",
    "edpo": "SFE + E-DPO",
}
_ABLATION_METRICS: Final = {"verdict_accuracy": "Accuracy", "acc_g": "Acc-G", "mle": "MLE"}
_RANGES: Final = {"mle": (1.0, 5.0)}


def write_ablation(folder: Path, summaries_by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Writes the ablation over seeds as `ablation.json` and, for reading, `ablation.md`; returns the former's content.

    `rows.<model>.<mode>.<metric>` holds the seeds' `median`, `min`, `max` and `values`, and `low` and `high`: a 95 %
    interval about the seeds' mean, of variance (mean of the seeds' own, from images) + (variance between seeds) /
    (number of seeds). The images' part does not shrink with seeds, for seeds may be scored on the same images.
    `order.<mode>` counts the seeds in which each row's MLE is at least that of the row above.

    Args:
      folder: Where both files go.
      summaries_by_seed: Content of each seed's `summary.json`.

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
            pooled = {name: _pooled(name, entries) for name in _ABLATION_METRICS}
            rows.setdefault(model, {})[mode] = {name: value for name, value in pooled.items() if value}
    ablation = {"seeds": list(summaries_by_seed), "rows": rows, "order": {mode: _order(rows, mode) for mode in MODES}}
    write_json(folder / "ablation.json", ablation)
    replace_file(folder / "ablation.md", ablation_markdown(ablation))
    return ablation


def ablation_markdown(ablation: Mapping[str, Any]) -> str:
    """The ablation as a Markdown table: median over seeds (min–max) [95 % interval], and how often the order held."""
    lines = [f"# Ablation over seeds {', '.join(map(str, ablation['seeds']))}", ""]
    headings = ["", *(f"{_ABLATION_METRICS[name]}, {mode.replace('_', '-')}" for mode, name in _ablation_columns())]
    lines += ["| " + " | ".join(headings).lstrip() + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    for model, title in ABLATION_ROWS.items():
        cells = [
            _ablation_cell(ablation, model, mode, key).plain.replace("\n", " ") for mode, key in _ablation_columns()
        ]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    lines += ["", "Median over seeds (min–max) [95 % interval about the seeds' mean]; – not measured.", ""]
    for mode in MODES:
        for step in ablation["order"][mode]:
            above, below = ABLATION_ROWS[step["lower"]], ABLATION_ROWS[step["higher"]]
            lines.append(
                f"- MLE, {mode.replace('_', '-')}: {below} ≥ {above} in {step['held']} of {step['seeds']} seeds"
            )
    return "\n".join(lines) + "\n"


def ablation_table(ablation: Mapping[str, Any]) -> Table:
    """The ablation for the terminal, at most 100 columns wide."""
    table = Table(
        title=f"Ablation over seeds {', '.join(map(str, ablation['seeds']))}: median, (min–max), [95 % interval]",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("\nModel")
    for mode, name in _ablation_columns():
        table.add_column(f"{_ABLATION_METRICS[name]}\n{mode.replace('_', '-')}", justify="right", no_wrap=True)
    for model, title in ABLATION_ROWS.items():
        table.add_row(title, *(_ablation_cell(ablation, model, mode, key) for mode, key in _ablation_columns()))
    return table


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
    """For each two neighbouring rows, the seeds that have both and those in which the later is no worse in MLE."""
    measured = [model for model in ABLATION_ROWS if "mle" in rows[model][mode]]
    steps = []
    for lower, higher in itertools.pairwise(measured):
        before, after = rows[lower][mode]["mle"]["values"], rows[higher][mode]["mle"]["values"]
        shared = before.keys() & after.keys()
        held = sum(after[seed] >= before[seed] for seed in shared)
        steps.append({"lower": lower, "higher": higher, "held": held, "seeds": len(shared)})
    return steps


def _ablation_columns() -> list[tuple[str, str]]:
    return list(itertools.product(MODES, _ABLATION_METRICS))


def _ablation_cell(ablation: Mapping[str, Any], model: str, mode: str, name: str) -> Text:
    entry = ablation["rows"][model][mode].get(name)
    if entry is None:
        return Text("–", style="dim")
    digits = 2 if name == "mle" else 3
    median, low, high, least, most = (f"{entry[key]:.{digits}f}" for key in ("median", "low", "high", "min", "max"))
    return Text(median).append(f"\n({least}–{most})\n[{low}, {high}]", style="dim")
