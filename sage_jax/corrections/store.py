"""Inspections and their corrections in SQLite, beside a run: written by several threads and processes at once.

A call that writes has written when it returns: the file is in WAL mode and synced at each commit, so that neither a
killed process nor a loss of power takes back what was acknowledged. WAL needs a disk of the machine itself, not a
network file system. Images are files named by their SHA-256, written before the row that names them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from sage_jax.corrections.entries import (
    Correction,
    CorrectionFault,
    Counts,
    Finding,
    HistoryEntry,
    InspectionEntry,
    ModelVerdict,
    TrueVerdict,
)
from sage_jax.corrections.rows import history_entry, inspection_entry
from sage_jax.corrections.schema import SCHEMA, VERSION
from sage_jax.data.records import Box
from sage_jax.process.files import replace_file

FOLDER: Final = "corrections"
"""Folder of the store in that of a run."""
FILE: Final = "corrections.sqlite"

Order = Literal["risk", "contradiction", "newest"]
_ORDERS: Final[dict[str, str]] = {
    "risk": "i.risk DESC, i.id DESC",
    "contradiction": "i.contradiction DESC, i.risk DESC, i.id DESC",
    "newest": "i.id DESC",
}
_WAIT_SECONDS: Final = 30.0

_ENTRIES: Final = """
SELECT i.*, c.id AS c_id, c.time AS c_time, c.who AS c_who, c.is_right AS c_is_right, c.verdict AS c_verdict,
       c.kind AS c_kind, c.box AS c_box, c.cell AS c_cell, c.sentence AS c_sentence
FROM inspections AS i LEFT JOIN standing AS c ON c.inspection = i.id
"""


class CorrectionStore:
    """The inspections of a run, and what people said of them.

    One object may be used by any number of threads, and a folder by any number of processes.

    Args:
      folder: Folder of the store; made if there is none. `store_of` gives that of a run.

    Raises:
      CorrectionFault: There is something else, or it cannot be read or written.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # two processes that make the same file at once
                self._make_schema()
        except OSError as error:
            raise CorrectionFault(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / FILE

    def add_inspection(self, finding: Finding) -> int:
        """Keeps what the model said of an image, and the image.

        Returns:
          The id of the inspection; it is on the disk.

        Raises:
          CorrectionFault: The folder cannot be written.
        """
        image, references = self._keep(finding.image), [self._keep(content) for content in finding.references]
        row = {
            "time": time.time(),
            "image": image,
            "reference_images": json.dumps(references),
            "name": finding.name,
            "category": finding.category,
            "verdict": finding.verdict,
            "score": finding.score,
            "threshold": finding.threshold,
            "reason": finding.reason,
            "answers": json.dumps(finding.answers, ensure_ascii=False),
            "boxes": json.dumps(finding.boxes),
            "model": finding.model,
            "source": finding.source,
            "language": finding.language,
            "risk": finding.risk,
            "contradiction": finding.contradiction,
        }
        with self._writing() as connection:
            return _inserted(connection, "inspections", row)

    def correct(
        self,
        inspection: int,
        who: str,
        *,
        right: bool = False,
        verdict: TrueVerdict | None = None,
        kind: str = "",
        box: Box | None = None,
        cell: str = "",
        sentence: str = "",
    ) -> int:
        """Keeps what a person says of an inspection; it stands in place of what was said before.

        Args:
          inspection: Its id.
          who: The person.
          right: Whether all that the model said is right.
          verdict: What the part is; None = as the model said where it is right, else the other one.
          kind, box, cell, sentence: As in `Correction`.

        Returns:
          The id of the row; it is on the disk.

        Raises:
          CorrectionFault: There is no such inspection, `who` is empty, or the correction contradicts itself.
        """
        said = self.inspection(inspection).verdict
        true = verdict or _implied(said, right)
        if right and true != said:
            raise CorrectionFault(
                f"inspection {inspection}: the model said {said}, so that {true} does not call it right"
            )
        given = Correction(right, true, " ".join(kind.split()), box, cell, " ".join(sentence.split()))
        row = {
            "inspection": inspection,
            "time": time.time(),
            "who": _person(who),
            "is_right": int(given.right),
            "verdict": given.verdict,
            "kind": given.kind,
            "box": None if box is None else json.dumps([box.left, box.top, box.right, box.bottom]),
            "cell": given.cell,
            "sentence": given.sentence,
        }
        with self._writing() as connection:
            return _inserted(connection, "corrections", row)

    def undo(self, inspection: int, who: str) -> int:
        """Takes back the correction that stands, by a further row; what was said before it stands again.

        Returns:
          The id of the row.

        Raises:
          CorrectionFault: There is no such inspection, or nothing stands.
        """
        person = _person(who)
        with self._writing() as connection:
            found = connection.execute("SELECT id FROM standing WHERE inspection = ?", (inspection,)).fetchone()
            if found is None:
                raise CorrectionFault(f"inspection {inspection}: there is no correction to take back")
            row = {"inspection": inspection, "time": time.time(), "who": person, "undoes": found["id"]}
            return _inserted(connection, "corrections", row)

    def history(self, inspection: int) -> list[HistoryEntry]:
        """All that was said of an inspection, oldest first.

        Raises:
          CorrectionFault: There is no such inspection.
        """
        self.inspection(inspection)
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM corrections WHERE inspection = ? ORDER BY id", (inspection,))
            return [history_entry(row, self.path) for row in rows]

    def inspection(self, inspection: int) -> InspectionEntry:
        """An inspection and what stands of its corrections.

        Raises:
          CorrectionFault: There is no such inspection.
        """
        with self._reading() as connection:
            row = connection.execute(f"{_ENTRIES} WHERE i.id = ?", (inspection,)).fetchone()
        if row is None:
            raise CorrectionFault(f"inspection {inspection}: there is none of this number in {self.path}")
        return inspection_entry(row, self.path)

    def pending(
        self, order: Order = "risk", *, limit: int = 50, offset: int = 0, category: str = ""
    ) -> list[InspectionEntry]:
        """Inspections without a standing correction.

        Args:
          order: `risk`: those first that the model is unsure of, then by how near the score is to the threshold;
            `contradiction`: those first whose answer, score and map disagree most; `newest`: the last first.
          limit: Most to return.
          offset: How many of the order to pass over.
          category: Only this kind of part; "" = all.

        Raises:
          CorrectionFault: The order is unknown, or a number is negative.
        """
        if order not in _ORDERS:
            raise CorrectionFault(f"order {order!r}: give one of {', '.join(_ORDERS)}")
        return self._listed("c.id IS NULL", _ORDERS[order], limit, offset, category)

    def corrected(self, *, limit: int = -1, offset: int = 0, category: str = "") -> list[InspectionEntry]:
        """Inspections with a standing correction, the last corrected first; `limit` = -1 gives all.

        Raises:
          CorrectionFault: A number is negative.
        """
        return self._listed("c.id IS NOT NULL", "c.id DESC", limit, offset, category)

    def counts(self) -> Counts:
        """Numbers of inspections and of standing corrections."""
        with self._reading() as connection:
            (inspections,) = connection.execute("SELECT COUNT(*) FROM inspections").fetchone()
            rows = connection.execute(
                "SELECT i.verdict, c.verdict, c.is_right, COUNT(*) FROM standing AS c "
                "JOIN inspections AS i ON i.id = c.inspection GROUP BY i.verdict, c.verdict, c.is_right"
            ).fetchall()
        sums: dict[str, int] = dict.fromkeys(("right", "over_rejected", "escaped", "settled", "refined"), 0)
        for said, true, right, number in rows:
            sums[_case(said, true, bool(right))] += number
        return Counts(inspections=inspections, pending=inspections - sum(sums.values()), **sums)

    def thresholds(self) -> dict[str, float]:
        """The threshold that each model last inspected with, by its revision."""
        newest = "SELECT model, threshold FROM inspections WHERE id IN (SELECT MAX(id) FROM inspections GROUP BY model)"
        with self._reading() as connection:
            return dict(connection.execute(newest).fetchall())

    def image(self, digest: str) -> bytes:
        """The encoded image of a digest.

        Raises:
          CorrectionFault: There is none, or its file is damaged.
        """
        path = self._image_path(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorrectionFault(f"{path}: cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorrectionFault(f"{path}: damaged: bring it back from a copy")
        return content

    def _listed(self, where: str, order: str, limit: int, offset: int, category: str) -> list[InspectionEntry]:
        if limit < -1 or offset < 0:
            raise CorrectionFault(f"limit = {limit}, offset = {offset}: give 0 or more")
        values = [category] if category else []
        where += " AND i.category = ?" if category else ""
        with self._reading() as connection:
            query = f"{_ENTRIES} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
            return [inspection_entry(row, self.path) for row in connection.execute(query, [*values, limit, offset])]

    def _keep(self, content: bytes) -> str:
        """Digest of an image whose file is on the disk."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._image_path(digest)
        try:
            if not (path.is_file() and path.stat().st_size == len(content)):
                replace_file(path, content)
                for each in (path, path.parent):
                    _sync(each)
        except OSError as error:
            raise CorrectionFault(f"{path}: cannot be written: {error.strerror or error}") from None
        return digest

    def _image_path(self, digest: str) -> Path:
        if not (len(digest) == 64 and all(letter in "0123456789abcdef" for letter in digest)):
            raise CorrectionFault(f"{digest!r}: no digest of an image: give 64 hexadecimal digits")
        return self.folder / "images" / digest[:2] / digest

    def _make_schema(self) -> None:
        holding = (self.path, self.path.with_name(f"{FILE}-wal"))
        written = any(path.exists() and path.stat().st_size for path in holding)
        if not written and any((self.folder / "images").glob("*/*")):
            raise CorrectionFault(
                f"{self.path}: gone or empty, beside images of inspections: bring it back from a copy; to begin anew, "
                f"delete {self.folder}"
            )
        with self._reading() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise CorrectionFault(f"{self.path}: written by a later version of the package: update it")
            if version < VERSION:
                connection.executescript(SCHEMA)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call: none is shared by threads, nor carried over a fork.

        What SQLite raises becomes a message that names the file.
        """
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            ) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                yield connection
        except sqlite3.Error as error:
            raise CorrectionFault(f"{self.path}: {error}; is it a whole file, and may it be written?") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has been synced to the disk at the end of the block, or has left nothing."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def store_of(run_dir: Path | str) -> CorrectionStore:
    """The store of a run, made if there is none.

    Raises:
      CorrectionFault: It cannot be read or written.
    """
    return CorrectionStore(Path(run_dir).expanduser() / FOLDER)


def _implied(said: ModelVerdict, right: bool) -> TrueVerdict:
    """The verdict of a correction that gives none."""
    if said == "unsure":
        raise CorrectionFault("the model was unsure: give the verdict, good or defective")
    if right:
        return said
    return "good" if said == "defective" else "defective"


def _case(said: str, true: str, right: bool) -> str:
    """Which of the fields of `Counts` a correction counts in."""
    if right:
        return "right"
    if said == "unsure":
        return "settled"
    if said == true:
        return "refined"
    return "over_rejected" if true == "good" else "escaped"


def _person(who: str) -> str:
    name = " ".join(who.split())
    if not name:
        raise CorrectionFault("who is empty: give the name of the person who says so")
    return name


def _inserted(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    marks = ", ".join("?" * len(row))
    done = connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    if done.lastrowid is None:
        raise sqlite3.DatabaseError(f"{table} took no row")
    return done.lastrowid


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
