"""One table over several ablations that differ in one number each: F and K of the paper's figure 7."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from sage_jax.journal.ablation import ABLATION_METRICS
from sage_jax.journal.summary import MODES, write_json
from sage_jax.process.files import replace_file

_COLUMNS: Final = [(mode, name) for mode in MODES for name in ABLATION_METRICS]


def write_sweep(folder: Path, ablations: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, Any]:
    """Writes `sweep.json` and, for reading, `sweep.md`; returns the former's content.

    `rows.<variant>.<mode>.<metric>` is what the variant's `ablation.json` has of `model`: the seeds' median, least and
    largest value, and a 95 % interval.

    Args:
      folder: Where both files go.
      ablations: Content of each variant's `ablation.json`.
      model: The stage that is compared.
    """
    sweep = {"model": model, "rows": {name: ablation["rows"][model] for name, ablation in ablations.items()}}
    write_json(folder / "sweep.json", sweep)
    headings = [f"{ABLATION_METRICS[name]}, {mode.replace('_', '-')}" for mode, name in _COLUMNS]
    lines = [f"# Stage {model} by variant", "", "| | " + " | ".join(headings) + " |"]
    lines.append("|---" + "|---:" * len(headings) + "|")
    lines += ["| " + " | ".join([name, *_cells(row)]) + " |" for name, row in sweep["rows"].items()]
    lines += ["", "Median over seeds [95 % interval about their mean]; – not measured.", ""]
    replace_file(folder / "sweep.md", "\n".join(lines))
    return sweep


def sweep_table(sweep: Mapping[str, Any]) -> Table:
    """The table for the terminal, at most 100 columns wide: a line for each variant and mode."""
    table = Table(
        title=f"Stage {sweep['model']} by variant: median over seeds, [95 % interval]",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("Variant")
    table.add_column("Mode", no_wrap=True)
    for heading in ABLATION_METRICS.values():
        table.add_column(heading, justify="right")
    for name, row in sweep["rows"].items():
        for mode in MODES:
            cells = [cell for (each, _), cell in zip(_COLUMNS, _cells(row), strict=True) if each == mode]
            table.add_row(name if mode == MODES[0] else "", mode.replace("_", "-"), *cells)
    return table


def _cells(row: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = (row.get(mode, {}).get(name) for mode, name in _COLUMNS)
    return ["–" if each is None else f"{each['median']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" for each in found]
