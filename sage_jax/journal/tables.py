"""The tables of a `summary.json`, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sage_jax.journal.summary import MODELS, MODES, load_summary

REASON_METRICS: Final = {
    "reason_kind": "Right\nkind",
    "reason_place": "Right\nplace",
    "reason_both": "Right\nboth",
    "named_though_good": "Named on\ngood",
    "consistency": "Consis-\ntency",
    "place_agreement": "Words\nand map",
    "verdict_accuracy": "Verdict\naccuracy",
    "kinds_told_apart": "Kinds\napart",
    "acc_g": "\nAcc-G",
}
DETECTION_METRICS: Final = {
    "auroc": "\nAUROC",
    "map_auroc": "of map\nalone",
    "difference_auroc": "of dif-\nference",
    "gain_over_map": "over\nmap",
    "gain_over_difference": "over dif-\nference",
    "average_precision": "Average\nprecision",
    "f1": "\nF1",
    "f1_max": "F1\nmax",
}
PIXEL_METRICS: Final = {
    "pixel_auroc": "Pixel\nAUROC",
    "difference_pixel_auroc": "of dif-\nference",
    "pixel_average_precision": "Average\nprecision",
    "pixel_f1_max": "F1\nmax",
    "aupro": "\nAUPRO",
    "difference_aupro": "of dif-\nference",
}
CATEGORY_METRICS: Final = {
    "auroc": "\nAUROC",
    "average_precision": "Average\nprecision",
    "f1_max": "F1\nmax",
    "pixel_auroc": "Pixel\nAUROC",
    "aupro": "\nAUPRO",
}
MLE_METRICS: Final = {
    "mle": "\nMLE",
    "mle_accuracy_defective": "defective:\nkind",
    "mle_localization_defective": "\nplace",
    "mle_logic_defective": "\nlogic",
    "mle_all_right_defective": "all\nright",
    "mle_accuracy_good": "good:\nkind",
    "mle_localization_good": "\nplace",
    "mle_logic_good": "\nlogic",
}
JUDGED_METRICS: Final = {
    "judge": "\nMLE",
    "judge_accuracy": "\nkind",
    "judge_localization": "\nplace",
    "judge_logic": "\nlogic",
    "judge_variance": "variance,\nrepeated",
    "judge_kappa_accuracy": "kappa:\nkind",
    "judge_kappa_localization": "\nplace",
    "judge_kappa_logic": "\nlogic",
    "sbert": "\nSBERT",
}
RANKING_METRICS: Final = {"ranking_best_worst": "Best >\nworst", "ranking_adjacent": "\nAdjacent"}

_Rows = list[tuple[str, str, Mapping[str, Any]]]


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
        sources = {f"{entry['data']}, revision {entry['revision'][:12]}" for _, _, entry in rows if entry.get("data")}
        parts += [Text(f"Test data: {source}\n") for source in sorted(sources)]
        parts.append(_metrics_table("What the answers say, of defective parts and of good ones", REASON_METRICS, rows))
        parts += _constant_line(rows)
        parts.append(_metrics_table("Detection, beside the map and the difference alone", DETECTION_METRICS, rows))
        placed = [row for row in rows if row[2].get("pixel_auroc")]
        parts += [_metrics_table("Where: the map over all pixels", PIXEL_METRICS, placed)] if placed else []
        parts += _categories_table(rows)
        parts.append(_metrics_table("MLE by the rubric judge, 1 to 5", MLE_METRICS, rows))
        parts += _judged_table(rows)
        parts.append(_kinds_table(rows))
        parts.append(Text("± half the 95 % bootstrap interval over images; – not measured.\n", style="dim"))
    if summary["stages"]:
        parts.append(_cost_table(summary["stages"]))
    return Group(*parts) if parts else Text("Nothing measured yet: run the stage evaluate.")


def _metrics_table(title: str, headings: Mapping[str, str], rows: _Rows) -> Table:
    table = _table(title)
    for heading in headings.values():
        table.add_column(heading, justify="right", no_wrap=True)
    _add_rows(table, [(model, mode, [entry.get(name) for name in headings]) for model, mode, entry in rows])
    return table


def _categories_table(rows: _Rows) -> list[RenderableType]:
    """Detection by category, of the last stage and mode that has several; and its means over them."""
    found = [row for row in rows if row[2].get("detection_by_category")]
    if not found:
        return []
    model, mode, entry = found[-1]
    table = Table(
        title=f"Detection by category, {model}, {mode.replace('_', '-')}",
        **{"title_justify": "left", "title_style": "bold", "header_style": "dim", "box": None, "padding": (0, 1, 0, 0)},
    )
    table.add_column("\nCategory")
    for heading in CATEGORY_METRICS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for category, metrics in entry["detection_by_category"].items():
        table.add_row(Text(category), *(_cell(metrics.get(name)) for name in CATEGORY_METRICS))
    means = (entry["detection_means"].get(name) for name in CATEGORY_METRICS)
    table.add_row("mean", *("–" if mean is None else f"{mean:.3f}" for mean in means), style="bold")
    return [table, Text("")]


def _constant_line(rows: _Rows) -> list[RenderableType]:
    """What the best answer gets that is the same for all images, in the mode with the most images."""
    found = [entry["best_constant"] for _, _, entry in rows if entry.get("best_constant")]
    told = [(name, share) for name, share in (found[-1] if found else {}).items() if share is not None]
    if not told:
        return []
    shares = ", ".join(f"{name} {share:.3f}" for name, share in told)
    return [Text(f"One and the same answer to all images gets at best: {shares}.\n", style="dim")]


def _judged_table(rows: _Rows) -> list[RenderableType]:
    """MLE by a language model and SBERT similarity of what was judged, and by whom; nothing where nothing was."""
    judged = [row for row in rows if any(name in row[2] for name in JUDGED_METRICS)]
    if not judged:
        return []
    table = _table("MLE by a language model, 1 to 5; its kappa with the rubric; SBERT")
    for heading in (*JUDGED_METRICS.values(), "\nFailed"):
        table.add_column(heading, justify="right", no_wrap=True)
    cells = [
        (model, mode, [*(entry.get(name) for name in JUDGED_METRICS), entry.get("judged", {}).get("failed")])
        for model, mode, entry in judged
    ]
    _add_rows(table, cells)
    by = {
        f"{told['model']}, {told['repetitions']} judgement{'s' if told['repetitions'] > 1 else ''} of each answer"
        for *_, entry in judged
        if (told := entry.get("judged"))
    }
    return [table, *(Text(f"Judged by {judge}.\n", style="dim") for judge in sorted(by))]


def _kinds_table(rows: _Rows) -> Table:
    kinds = list(dict.fromkeys(kind for _, _, entry in rows for kind in entry.get("accuracy_by_kind", {})))
    table = _table("Verdict accuracy by kind of question, and ranking of the given answers")
    unread = ("Without\nverdict",) if any(entry.get("without_verdict") for _, _, entry in rows) else ()
    counts = ("Unparsable\nanswers", "\nQuestions")
    for heading in (*(kind.replace(" ", "\n") for kind in kinds), *RANKING_METRICS.values(), *unread, *counts):
        table.add_column(heading, justify="right")
    cells = []
    for model, mode, entry in rows:
        by_kind = entry.get("accuracy_by_kind", {})
        ranked = [entry.get(name) for name in RANKING_METRICS]
        counted = [entry.get("without_verdict")] if unread else []
        counted += [entry.get("unparsable"), entry.get("verdict_accuracy", {}).get("n")]
        cells.append((model, mode, [*(by_kind.get(kind) for kind in kinds), *ranked, *counted]))
    _add_rows(table, cells)
    text_only = next((entry["text_only"] for _, _, entry in reversed(rows) if entry.get("text_only")), {})
    if text_only:
        shares = (text_only.get(kind, {}).get("accuracy") for kind in kinds)
        table.add_row(
            "question alone", "", *("–" if share is None else f"{share:.3f}" for share in shares), style="dim"
        )
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
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 1, 0, 0)
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
