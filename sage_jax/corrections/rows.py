"""Rows of the store of corrections, as what they stand for."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_jax.corrections.entries import Correction, CorrectionFault, HistoryEntry, InspectionEntry
from sage_jax.data.records import Box


def inspection_entry(row: sqlite3.Row, path: Path) -> InspectionEntry:
    """An inspection and what stands of its corrections, whose columns begin with `c_`.

    Args:
      path: The database.

    Raises:
      CorrectionFault: The row is damaged: SQLite has no checksums.
    """
    with _told(row, path):
        own = {name: row[name] for name in row.keys() if not name.startswith("c_")}
        standing = None
        if row["c_id"] is not None:
            said = _correction({name.removeprefix("c_"): row[name] for name in row.keys() if name.startswith("c_")})
            standing = HistoryEntry(row["c_id"], row["id"], row["c_time"], row["c_who"], said, None)
        own["references"] = tuple(json.loads(own.pop("reference_images")))
        own["answers"] = tuple((question, answer) for question, answer in json.loads(own["answers"]))
        own["boxes"] = tuple(
            (left, top, right, bottom, score) for left, top, right, bottom, score in json.loads(own["boxes"])
        )
        return InspectionEntry(**own, correction=standing)


def history_entry(row: sqlite3.Row, path: Path) -> HistoryEntry:
    """What was said once of an inspection.

    Args:
      path: The database.

    Raises:
      CorrectionFault: The row is damaged.
    """
    with _told(row, path):
        said = None if row["undoes"] is not None else _correction({name: row[name] for name in row.keys()})
        return HistoryEntry(row["id"], row["inspection"], row["time"], row["who"], said, row["undoes"])


def _correction(row: dict[str, Any]) -> Correction:
    box = None if row["box"] is None else Box(*json.loads(row["box"]))
    return Correction(bool(row["is_right"]), row["verdict"], row["kind"], box, row["cell"], row["sentence"])


@contextlib.contextmanager
def _told(row: sqlite3.Row, path: Path) -> Iterator[None]:
    """Tells of a row that holds what no call has written."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        number = row["id"]
        raise CorrectionFault(
            f"{path}: row {number!r} is damaged ({type(error).__name__}: {error}): bring the file back from a copy"
        ) from None
