"""The tables of a benchmark's `summary.json`, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sage_jax.benchmark.results import GENERATED, LIKELIHOOD, OFFICIAL, load_results
from sage_jax.metrics.mmad import ANALYSIS, DETECTION, OF_ANALYSIS, TYPES

_TYPE_HEADINGS: Final = {
    DETECTION: "Anomaly\ndetect.",
    "balanced": "bal-\nanced",
    "Defect Classification": "Defect\nclass",
    "Defect Localization": "\nplace",
    "Defect Description": "\nlooks",
    "Defect Analysis": "anal-\nysis",
    "Object Classification": "Object\nclass",
    OF_ANALYSIS[0]: "struc-\nture",
    OF_ANALYSIS[1]: "\ndetail",
    ANALYSIS: "anal-\nysis",
    "mean_of_types": "\nMean",
}
assert set(TYPES) < set(_TYPE_HEADINGS)

_Row = tuple[str, str, Mapping[str, Any]]


def print_benchmark(path: Path, console: Console | None = None) -> None:
    """Prints the tables of a benchmark's summary."""
    (console or Console(width=max(100, Console().width))).print(benchmark_tables(load_results(path)))


def benchmark_tables(summary: Mapping[str, Any]) -> RenderableType:
    """A benchmark's results as tables of at most 100 columns; values with half their interval."""
    parts: list[RenderableType] = []
    for stage, entry in summary.get("stages", {}).items():
        shots = entry["shots"]
        parts.append(Text(_about(stage, entry)))
        make = _choice_parts if entry["name"] == "mmad" else _verdict_parts
        parts += make(shots)
    if not parts:
        return Text("Nothing measured yet: run the stage benchmark.")
    parts.append(Text("± half the 95 % bootstrap interval over images; – not measured.", style="dim"))
    return Group(*parts)


def _about(stage: str, entry: Mapping[str, Any]) -> str:
    left_out = f", {entry['left_out']} left out for their faults" if entry["left_out"] else ""
    return (
        f"{entry['name']}, stage {stage}: {entry['questions']} questions of {entry['images']} images{left_out}, "
        f"revision {entry['revision'][:12]}\n"
    )


def _choice_parts(shots: Mapping[str, Mapping[str, Any]]) -> Iterator[RenderableType]:
    rows = list(_rows(shots))
    by_type = _table("Accuracy by type of question", _TYPE_HEADINGS.values())
    for mode, way, found in rows:
        cells = {**found["by_type"], "balanced": found["balanced"], "mean_of_types": found["mean_of_types"]}
        by_type.add_row(mode, way, *(_cell(cells.get(name)) for name in _TYPE_HEADINGS))
    yield by_type
    datasets = list(dict.fromkeys(name for _, _, found in rows for name in found["by_dataset"]))
    headings = [*(f"\n{name}" for name in datasets), "All\nquestions", "Mean of\ndata sets", "Un-\nread", "\nQuestions"]
    by_dataset = _table("Accuracy by data set", headings)
    for mode, way, found in rows:
        cells = [_cell(found["by_dataset"].get(name)) for name in datasets]
        cells += [_cell(found["overall"]), _cell(found["mean_of_datasets"])]
        by_dataset.add_row(mode, way, *cells, Text(str(found["unread"])), Text(str(found["overall"]["n"])))
    yield by_dataset
    for number, metrics in shots.items():
        total = metrics[OFFICIAL]["Average"]["Average"]
        yield Text(f"{number}-shot, by MMAD's own evaluator with its faults: {total:.1f} % on average")
    yield from _unread_lines(shots)


def _verdict_parts(shots: Mapping[str, Mapping[str, Any]]) -> Iterator[RenderableType]:
    rows = list(_rows(shots))
    kinds = list(dict.fromkeys(kind for _, _, found in rows for kind in found["by_kind"]))
    headings = [
        "Verdict\naccuracy",
        *(kind.replace(" ", "\n") for kind in kinds),
        "\nAcc-G",
        "Un-\nread",
        "\nQuestions",
    ]
    table = _table("Verdict accuracy, by kind of question", headings)
    for mode, way, found in rows:
        cells = [_cell(found["verdict_accuracy"]), *(_cell(found["by_kind"].get(kind)) for kind in kinds)]
        cells += [_cell(found["acc_g"]), Text(str(found["unread"])), Text(str(found["verdict_accuracy"]["n"]))]
        table.add_row(mode, way, *cells)
    yield table
    yield from _unread_lines(shots)


def _rows(shots: Mapping[str, Mapping[str, Any]]) -> Iterator[_Row]:
    """A row for each number of references and way of scoring; readers that see no image once for the same questions."""
    told: list[Mapping[str, Any]] = []
    for number, metrics in shots.items():
        yield f"{number}-shot", LIKELIHOOD, metrics[LIKELIHOOD]
        yield "", GENERATED, metrics[GENERATED]
        if metrics["rivals"] not in told:
            told.append(metrics["rivals"])
            yield from (("no image", name, found) for name, found in metrics["rivals"].items())


def _unread_lines(shots: Mapping[str, Mapping[str, Any]]) -> Iterator[Text]:
    for number, metrics in shots.items():
        if unread := metrics[GENERATED]["unread"]:
            yield Text(f"{number}-shot: {unread} written answers name no option or verdict; they count as wrong.")


def _table(title: str, headings: Any) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 1, 0, 0)
    )
    table.add_column("\nMode", no_wrap=True)
    table.add_column("\nScored by", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cell(metric: Mapping[str, Any] | None) -> Text:
    if not metric or metric["value"] is None:
        return Text("–", style="dim")
    text = Text(f"{metric['value']:.3f}")
    return text.append(f"\n±{(metric['high'] - metric['low']) / 2:.3f}", style="dim")
