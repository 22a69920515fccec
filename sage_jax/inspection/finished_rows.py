"""The rows of an inspection under way: appended batch by batch, found again after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sage_jax.inspection.report import InspectionRow, row_from_json, row_to_json
from sage_jax.process.checksums import open_json, sealed_json


class Entry(NamedTuple):
    """Where a finished row stands in the journal, in bytes, and what its image was (`Images.stamp`)."""

    offset: int
    stamp: str


class RowJournal:
    """A JSONL of finished rows, each with its image and what it was made by; only whole batches count.

    A line holds `key` and `stamp` of the image, `made_by`, `left` (rows of the same batch that follow), `row` and a
    checksum of these; behind a damaged one all images are inspected again. Who goes on after a kill thus cuts the
    images that are left into the batches of a run without one, and gets its numbers to the last bit. Rows stay on disk:
    memory holds a few hundred bytes an image.

    Args:
      path: The file; made with the first batch.
      made_by: Hash of all that decides a row beside its image.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self._path, self._made_by = path, made_by

    def find(self) -> dict[str, Entry]:
        """The rows of earlier runs that were made by the same, by key; a batch that was cut short is cut off."""
        found: dict[str, Entry] = {}
        batch: dict[str, Entry] = {}
        if not self._path.exists():
            return found
        whole = offset = 0
        with self._path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is None:
                    break
                if entry["made_by"] == self._made_by:
                    batch[entry["key"]] = Entry(offset, entry["stamp"])
                offset += len(line)
                if entry["left"] == 0:
                    found |= batch
                    batch, whole = {}, offset
        os.truncate(self._path, whole)
        return found

    def append(self, batch: Sequence[tuple[str, str, InspectionRow]]) -> list[int]:
        """Writes the rows of a batch, each with its image's key and stamp; gives their offsets."""
        offsets, lines = [], []
        with self._path.open("ab") as file:
            offset = file.tell()
            for position, (key, stamp, row) in enumerate(batch):
                about = {"key": key, "stamp": stamp, "made_by": self._made_by, "left": len(batch) - position - 1}
                content = sealed_json({**about, "row": row_to_json(row)})
                line = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
                offsets.append(offset)
                lines.append(line.encode())
                offset += len(lines[-1])
            file.write(b"".join(lines))
        return offsets

    def rows(self, offsets: Iterable[int]) -> Iterator[InspectionRow]:
        """The rows at these offsets, one in memory at a time."""
        with self._path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield row_from_json(json.loads(file.readline())["row"])

    def remove(self) -> None:
        """Deletes the file: its rows are elsewhere."""
        self._path.unlink(missing_ok=True)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The content of a line, None where it is torn or damaged."""
    try:
        return open_json(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return None
