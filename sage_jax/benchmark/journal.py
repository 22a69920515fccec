"""The answers of a benchmark under way: appended image by image, found again after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sage_jax.process.checksums import open_json, sealed_json


class Answered(NamedTuple):
    """The answers to an item's questions.

    Attributes:
      key: Of the item.
      stamp: Hash of what it was asked about and how.
      answers: One for each question, see `answer.Answer`.
    """

    key: str
    stamp: str
    answers: list[dict[str, Any]]


class AnswerJournal:
    """A JSONL of answered items, each with what it was and what answered it; only whole chunks count.

    A line holds `key`, `stamp`, `made_by`, `left` (items of the same chunk that follow), `answers` and a checksum.
    After a kill the items that are left are cut into the chunks of a run without one, with its numbers to the last bit.

    Args:
      path: The file; made with the first chunk.
      made_by: Hash of all that decides an answer beside its item.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self._path, self._made_by = path, made_by

    def find(self) -> dict[str, Answered]:
        """The items that the same model answered, by key.

        A last chunk that was cut short is cut off; of another chunk with a damaged line nothing counts.
        """
        found: dict[str, Answered] = {}
        chunk: dict[str, Answered] = {}
        if not self._path.exists():
            return found
        whole = offset = 0
        damaged = False
        with self._path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                offset += len(line)
                if entry is None:
                    damaged = True
                    continue
                if entry["made_by"] == self._made_by:
                    chunk[entry["key"]] = Answered(entry["key"], entry["stamp"], entry["answers"])
                if entry["left"] == 0:
                    found |= {} if damaged else chunk
                    chunk, whole, damaged = {}, offset, False
        os.truncate(self._path, whole)
        return found

    def append(self, chunk: Sequence[Answered]) -> None:
        """Writes the items of a chunk, and waits until the disk has them."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for position, item in enumerate(chunk):
            about = {"key": item.key, "stamp": item.stamp, "made_by": self._made_by}
            row = {**about, "left": len(chunk) - position - 1, "answers": item.answers}
            lines.append(json.dumps(sealed_json(row), ensure_ascii=False, allow_nan=False) + "\n")
        with self._path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The content of a line, None where it is torn or damaged."""
    try:
        return open_json(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return None
