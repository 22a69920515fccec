"""Rows that hold what no call has written are told by their number and file."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.records import Box
from tests.support.corrected import finding


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("inspections", "answers", "[[1]]"),
        ("inspections", "answers", "[" * 100_000),
        ("inspections", "boxes", "7"),
        ("inspections", "reference_images", "["),
        ("corrections", "box", "[1, 2]"),
        ("corrections", "box", "{"),
    ],
)
def test_a_damaged_row_is_told(tmp_path: Path, table: str, column: str, value: str) -> None:
    store = CorrectionStore(tmp_path)
    number = store.add_inspection(finding(boxes=((1, 2, 3, 4, 0.5),)))
    store.correct(number, "Ada", verdict="defective", box=Box(1, 2, 3, 4))
    assert store.inspection(number).boxes == ((1, 2, 3, 4, 0.5),)
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(f"DROP TRIGGER {table}_stay")
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
    for read in (store.corrected, lambda: store.history(number), lambda: store.inspection(number)):
        with pytest.raises(CorrectionFault, match=rf"{re.escape(str(store.path))}: row 1 is damaged .*from a copy"):
            read()
