"""The tables keep what was said: rows are added, and neither changed nor deleted."""

from __future__ import annotations

import sqlite3

import pytest

from sage_jax.corrections.schema import SCHEMA, VERSION


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("PRAGMA foreign_keys = ON")
    made.executescript(SCHEMA)
    columns = "time, image, reference_images, name, category, verdict, score, threshold, reason, answers, boxes, model"
    values = "0, '', '[]', '', '', 'good', 0.1, 0.5, '', '[]', '[]', ''"
    made.execute(
        f"INSERT INTO inspections ({columns}, source, language, risk, contradiction) VALUES ({values}, '', 'en', 0, 0)"
    )
    made.execute("INSERT INTO corrections (inspection, time, who, is_right, verdict) VALUES (1, 0, 'a', 1, 'good')")
    return made


def test_the_version_of_the_tables_is_written(connection: sqlite3.Connection) -> None:
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE corrections SET verdict = 'defective'", "never changed"),
        ("DELETE FROM corrections", "never deleted"),
        ("UPDATE inspections SET score = 1", "never changed"),
        ("DELETE FROM inspections", "FOREIGN KEY"),
        ("INSERT INTO corrections (inspection, time, who, is_right, verdict) VALUES (9, 0, 'a', 1, 'good')", "FOREIGN"),
        ("INSERT INTO corrections (inspection, time, who) VALUES (1, 0, 'a')", "CHECK"),
    ],
)
def test_what_was_said_stays(connection: sqlite3.Connection, statement: str, message: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=message):
        connection.execute(statement)


def test_a_correction_is_taken_back_once(connection: sqlite3.Connection) -> None:
    undo = "INSERT INTO corrections (inspection, time, who, undoes) VALUES (1, 0, 'a', 1)"
    connection.execute(undo)
    assert connection.execute("SELECT COUNT(*) FROM standing").fetchone() == (0,)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        connection.execute(undo)
