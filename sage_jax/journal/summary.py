"""`summary.json`: what each stage cost and scored, and the tables printed from it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sage_jax.config import TRAINING_STAGES, ConfigError
from sage_jax.metrics.intervals import Metric
from sage_jax.process.files import replace_file
from sage_jax.process.peak_memory import PeakMemory

MODELS: Final = tuple(TRAINING_STAGES)
MODES: Final = ("zero_shot", "one_shot")
HEADINGS: Final = {
    "verdict_accuracy": "Verdict\naccuracy",
    "acc_g": "\nAcc-G",
    "auroc": "\nAUROC",
    "average_precision": "Average\nprecision",
    "f1": "\nF1",
    "pixel_auroc": "Pixel\nAUROC",
    "mle": "\nMLE",
    "ranking_best_worst": "Best >\nworst",
    "ranking_adjacent": "\nAdjacent",
}


def load_summary(path: Path) -> dict[str, Any]:
    """The content of a `summary.json`, with empty `stages` and `metrics` where there is no file yet.

    Raises:
      ConfigError: The file is no summary.
    """
    if not path.exists():
        return {"stages": {}, "metrics": {}}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); delete it and run the stage evaluate again") from None
    for name in ("stages", "metrics"):
        if not isinstance(summary, dict) or not isinstance(summary.setdefault(name, {}), dict):
            raise ConfigError(f"{path}: expected an object {name}; delete it and run the stage evaluate again")
    return summary


def record_cost(
    path: Path,
    stage: str,
    *,
    seconds: float,
    peak_memory_gb: float,
    shares: Mapping[str, float] | None = None,
    counts: Mapping[str, float] | None = None,
    resumed: bool = False,
) -> None:
    """Writes a stage's wall-clock seconds and peak memory (GB, 10^9 bytes) into the summary, all else kept.

    Args:
      path: The summary; made if there is none.
      stage: Any stage of a run.
      seconds: Wall-clock time of the stage.
      peak_memory_gb: See `PeakMemory`.
      shares: What the stage measured of its own work, such as `input_wait` and `padding` of a training stage.
      counts: What it counted or summed up, such as `compilations` and `compile_seconds`.
      resumed: The stage went on from earlier work: its seconds and counts are added, the larger peak stands, shares are
        means over the seconds of both.
    """
    summary = load_summary(path)
    before = summary["stages"].get(stage) if resumed else None
    measured, counted = dict(shares or {}), dict(counts or {})
    if before is not None:
        for name in counted:
            counted[name] += before.get(name, 0.0)
        for name in before.keys() - {"seconds", "peak_memory_gb"} - counted.keys():
            earlier, both = float(before[name]), max(before["seconds"] + seconds, 1e-9)
            measured[name] = (earlier * before["seconds"] + measured.get(name, earlier) * seconds) / both
        seconds, peak_memory_gb = seconds + before["seconds"], max(peak_memory_gb, before["peak_memory_gb"])
    cost = {"seconds": round(seconds, 3), "peak_memory_gb": round(peak_memory_gb, 4)}
    summary["stages"][stage] = cost | {name: round(value, 4) for name, value in sorted((measured | counted).items())}
    _write_json(path, summary)


class CostMeter:
    """Wall-clock seconds and peak memory of the stage that runs inside of it."""

    def __enter__(self) -> CostMeter:
        self._start = time.perf_counter()
        self._memory = PeakMemory().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._memory.__exit__(kind, error, trace)

    def record(
        self,
        path: Path,
        stage: str,
        *,
        worked: bool = True,
        resumed: bool = False,
        shares: Mapping[str, float] | None = None,
        counts: Mapping[str, float] | None = None,
    ) -> None:
        """Writes the cost of a stage that has ended; without any work, that of an earlier run stands.

        Args:
          path: The summary.
          stage, resumed, shares, counts: As in `record_cost`.
          worked: Whether the stage had anything to do.
        """
        if worked or stage not in load_summary(path)["stages"]:
            measured = {"seconds": self.seconds, "peak_memory_gb": self._memory.gigabytes}
            record_cost(path, stage, **measured, shares=shares, counts=counts, resumed=resumed)


def record_metrics(
    path: Path,
    model: str,
    mode: str,
    metrics: Mapping[str, Metric],
    *,
    accuracy_by_kind: Mapping[str, Metric] | None = None,
    unparsable: int | None = None,
    scored_of: str | None = None,
) -> None:
    """Writes metrics of one model (the stage that trained it) in one mode into the summary, all others kept.

    Args:
      path: The summary; made if there is none.
      model: One of MODELS.
      mode: One of MODES.
      metrics: By name, of HEADINGS.
      accuracy_by_kind: Verdict accuracy by kind of question.
      unparsable: Answers that began with no verdict.
      scored_of: Hash of what the metrics depend on, by which evaluation knows them again.

    Raises:
      ValueError: A name is unknown, or a value is not finite.
    """
    for name, known in [(model, MODELS), (mode, MODES), *((name, HEADINGS) for name in metrics)]:
        if name not in known:
            raise ValueError(f"summary: {name!r} is none of {', '.join(known)}")
    summary = load_summary(path)
    entry = summary["metrics"].setdefault(model, {}).setdefault(mode, {})
    entry.update({name: _as_json(name, metric) for name, metric in metrics.items()})
    if accuracy_by_kind is not None:
        entry["accuracy_by_kind"] = {kind: _as_json(kind, metric) for kind, metric in accuracy_by_kind.items()}
    about = {"unparsable": unparsable, "scored_of": scored_of}
    entry |= {name: value for name, value in about.items() if value is not None}
    _write_json(path, summary)


def print_summary(path: Path, console: Console | None = None) -> None:
    """Prints a summary's tables: metrics, accuracy by kind, cost. What is not in the file is not in the tables."""
    (console or Console(width=max(100, Console().width))).print(summary_tables(load_summary(path)))


def summary_tables(summary: Mapping[str, Any]) -> RenderableType:
    """A summary as tables of at most 100 columns, a row for each model and mode; values with half their interval."""
    parts: list[RenderableType] = []
    rows = [
        (model, mode, summary["metrics"][model][mode])
        for model in MODELS
        for mode in MODES
        if mode in summary["metrics"].get(model, {})
    ]
    if rows:
        parts += [_metrics_table(rows), _kinds_table(rows)]
        parts.append(Text("± half the 95 % bootstrap interval over images; – not measured.\n", style="dim"))
    if summary["stages"]:
        parts.append(_cost_table(summary["stages"]))
    return Group(*parts) if parts else Text("Nothing measured yet: run the stage evaluate.")


def _metrics_table(rows: list[tuple[str, str, dict[str, Any]]]) -> Table:
    table = _table("Metrics")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    _add_rows(table, [(model, mode, [entry.get(name) for name in HEADINGS]) for model, mode, entry in rows])
    return table


def _kinds_table(rows: list[tuple[str, str, dict[str, Any]]]) -> Table:
    kinds = list(dict.fromkeys(kind for _, _, entry in rows for kind in entry.get("accuracy_by_kind", {})))
    table = _table("Verdict accuracy by kind of question")
    for heading in (*(kind.replace(" ", "\n") for kind in kinds), "Unparsable\nanswers", "\nQuestions"):
        table.add_column(heading, justify="right")
    cells = []
    for model, mode, entry in rows:
        by_kind = entry.get("accuracy_by_kind", {})
        counts = [entry.get("unparsable"), entry.get("verdict_accuracy", {}).get("n")]
        cells.append((model, mode, [*(by_kind.get(kind) for kind in kinds), *counts]))
    _add_rows(table, cells)
    return table


def _cost_table(stages: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="Cost", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("Stage", "Time", "Peak memory"):
        table.add_column(heading, justify="left" if heading == "Stage" else "right", header_style="dim")
    for name, cost in stages.items():
        minutes, seconds = divmod(round(cost["seconds"]), 60)
        table.add_row(name, f"{minutes} min {seconds:02d} s", f"{cost['peak_memory_gb']:.2f} GB")
    return table


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("\nModel")
    table.add_column("\nMode", no_wrap=True)
    return table


def _add_rows(table: Table, rows: list[tuple[str, str, list[Any]]]) -> None:
    for position, (model, mode, values) in enumerate(rows):
        first = position == 0 or rows[position - 1][0] != model
        cells = [Text(str(value)) if isinstance(value, int) else _cell(value) for value in values]
        table.add_row(model if first else "", mode.replace("_", "-"), *cells)


def _cell(metric: Mapping[str, Any] | None) -> Text:
    if not metric or metric["value"] is None:
        return Text("–", style="dim")
    text = Text(f"{metric['value']:.3f}")
    return text.append(f"\n±{(metric['high'] - metric['low']) / 2:.3f}", style="dim")


def _as_json(name: str, metric: Metric) -> dict[str, Any]:
    entry = dataclasses.asdict(metric)
    for key, value in entry.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"summary: {name}.{key} is {value}: give None where a metric is undefined")
    return entry


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


ABLATION_ROWS: Final = {
    "base": "Base",
    "plain": "Facts as plain text",
    "sfe": "SFE",
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
    _write_json(folder / "ablation.json", ablation)
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
