"""The summary of one inspection on the terminal."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sage_jax.inspection.report import InspectionRow, row_from_json

_SHOWN = 5


def print_inspection(output: Path, cost: Mapping[str, float], console: Console | None = None) -> None:
    """Prints counts by verdict, speed, unreadable images, those of highest score, and the place of the report.

    Args:
      output: Folder of the inspection.
      cost: Its entry in summary.json.
    """
    console = console or Console(width=max(100, Console().width), highlight=False)
    counts = Counter(row.verdict for row in _rows(output))
    found = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
    inspected = cost.get("images", 0.0)
    speed = f"; {cost['batch_seconds'] / inspected:.2f} s an image" if inspected else ""
    total = sum(counts.values())
    console.print(f"{total} image{'' if total == 1 else 's'}: {found}{speed}", markup=False)
    worst = heapq.nlargest(
        _SHOWN, (row for row in _rows(output) if row.score is not None), key=lambda row: row.score or 0
    )
    unread = itertools.islice((row for row in _rows(output) if row.score is None), _SHOWN)
    table = Table("score", "verdict", "image", "reason", box=None, pad_edge=False)
    for row in [*unread, *worst]:
        score, why = ("", row.error) if row.score is None else (f"{row.score:.3f}", row.reason)
        table.add_row(score, row.verdict, *map(Text, (Path(row.image).name, why)))  # texts are no markup
    console.print(table)
    console.print(f"report: {output / 'report.html'}", markup=False, soft_wrap=True)


def _rows(output: Path) -> Iterator[InspectionRow]:
    with (output / "inspection.jsonl").open(encoding="utf-8") as file:
        yield from (row_from_json(json.loads(line)) for line in file)
