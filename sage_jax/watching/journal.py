"""What a watched folder held and what was found, in SQLite: a result is there whole and once, after a kill too."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sage_jax.errors import UserError

FILE: Final = "watch.sqlite"
_WAIT_SECONDS: Final = 30.0
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_digest ON files (digest);
CREATE TABLE IF NOT EXISTS results (number INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, line TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_digest ON results (digest);
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


class WatchError(UserError):
    """A folder that cannot be watched, or results that cannot be kept; the message names it and the way out."""


@dataclasses.dataclass(frozen=True)
class Known:
    """A file as it was when it was dealt with.

    Attributes:
      stamp: Its size and time of change.
      digest: SHA-256 of its content.
    """

    stamp: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Done:
    """A file that has been dealt with.

    Attributes:
      path: Its path below the folder.
      known: What it was.
      line: Its result, as JSON; "" = none, for one that has only moved.
    """

    path: bytes
    known: Known
    line: str


@dataclasses.dataclass(frozen=True)
class Result:
    """A result.

    Attributes:
      number: From 1, in the order in which results came.
      line: JSON.
    """

    number: int
    line: str


class WatchJournal:
    """Files and results of a watched folder. Any thread may call it; a call that writes has written when it returns.

    Args:
      folder: Folder of the results; made if there is none.

    Raises:
      WatchError: It cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WatchError(f"watch.output: {folder} cannot be written: {error.strerror or error}") from None
        with self._open() as connection:
            connection.executescript(_SCHEMA)

    def known(self, path: bytes) -> Known | None:
        """What was dealt with at a path last."""
        with self._open() as connection:
            row = connection.execute("SELECT stamp, digest FROM files WHERE path = ?", (path,)).fetchone()
        return None if row is None else Known(*row)

    def stamps(self) -> dict[bytes, str]:
        """The stamps of all files that were dealt with."""
        with self._open() as connection:
            return dict(connection.execute("SELECT path, stamp FROM files"))

    def paths_with(self, digest: str) -> list[bytes]:
        """Paths where a content was seen last."""
        with self._open() as connection:
            return [path for (path,) in connection.execute("SELECT path FROM files WHERE digest = ?", (digest,))]

    def first_result(self, digest: str) -> Result | None:
        """The first result on a content."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT number, line FROM results WHERE digest = ? ORDER BY number LIMIT 1", (digest,)
            ).fetchone()
        return None if row is None else Result(*row)

    def record(self, done: Sequence[Done]) -> None:
        """Keeps files and their results, all of them or none."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for each in done:
                connection.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (each.path, each.known.stamp, each.known.digest)
                )
                if each.line:
                    connection.execute(
                        "INSERT INTO results (digest, line) VALUES (?, ?)", (each.known.digest, each.line)
                    )
            connection.execute("COMMIT")

    def results_after(self, number: int, most: int) -> list[Result]:
        """The results that follow one, in order."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT number, line FROM results WHERE number > ? ORDER BY number LIMIT ?", (number, most)
            )
            return [Result(*row) for row in rows]

    def last_number(self) -> int:
        """The number of the last result; 0 without any."""
        with self._open() as connection:
            (number,) = connection.execute("SELECT COALESCE(MAX(number), 0) FROM results").fetchone()
        return number

    def cursor(self, name: str) -> int | None:
        """The last result that was delivered somewhere; None where nothing was ever."""
        with self._open() as connection:
            row = connection.execute("SELECT number FROM cursors WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def move_cursor(self, name: str, number: int) -> None:
        """Notes the last result that was delivered somewhere."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, number))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call; what is left open is rolled back. What SQLite raises names the file."""
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            ) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.Error as error:
            raise WatchError(f"{self.path}: {error}; is it a whole file, and may it be written?") from None
