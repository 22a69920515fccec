"""The rows of an inspection as a table that spreadsheet programs open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sage_jax.inspection.report import InspectionRow
from sage_jax.process.files import replace_file

COLUMNS: Final = (
    "image", "category", "verdict", "anomaly score", "reason", "why unsure", "error", "known label", "reference",
    "regions (left top right bottom peak, px)", "further answers",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write_rows_csv(path: Path, rows: Iterable[InspectionRow]) -> None:
    """Writes the rows as CSV in UTF-8 with a byte order mark, by which spreadsheet programs know the encoding.

    A text that begins as a formula does gets an apostrophe in front, so that no program computes it.
    """
    replace_file(path, _lines(rows))


def _lines(rows: Iterable[InspectionRow]) -> Iterator[str]:
    yield "\N{ZERO WIDTH NO-BREAK SPACE}" + _line(COLUMNS)
    for row in rows:
        regions = "; ".join(" ".join(f"{value:g}" for value in box) for box in row.boxes)
        answers = " ".join(f"{question} {answer}" for question, answer in row.follow_ups)
        score = "" if row.score is None else f"{row.score:.6f}"
        texts = (row.image, row.category, row.verdict, row.reason, row.doubt, row.error, row.truth or "", row.reference)
        image, category, verdict, reason, doubt, error, truth, reference = (_plain(text) for text in texts)
        before = (image, category, verdict, score, reason, doubt, error, truth, reference)
        yield _line((*before, regions, _plain(answers)))


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(values: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(values)
    return buffer.getvalue()
