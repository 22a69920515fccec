"""Facts that a model wrote about images, kept by the content of each image, and records that take theirs from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, overload

from sage_jax.data.records import Record
from sage_jax.data.trees.encode import Counted, count_records
from sage_jax.process.files import replace_file

_KEY_DIGITS: Final = 32


def image_key(image: bytes) -> str:
    """Thirty-two hex digits that name an image by its encoded content, wherever it lies."""
    return hashlib.sha256(image).hexdigest()[:_KEY_DIGITS]


class FactBook:
    """Facts by image, in a file of JSON lines that grows by whole ones.

    A line has the facts of an image, `{"image", "name", "facts", "check"}`, or the revision of a data set all of whose
    images have theirs, `{"complete", "check"}`. A line that a kill cut short, or that is not as it was written, is left
    out when the file is read; no data set counts as complete then, and its facts are written again where they lack.

    Attributes:
      path: The file; it need not be there yet.
      num_damaged: Lines that were left out.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.num_damaged = path, 0
        self._facts: dict[str, tuple[str, ...]] = {}
        self._complete: set[str] = set()
        content = path.read_bytes() if path.is_file() else b""
        self._cut_short = bool(content) and not content.endswith(b"\n")
        for line in content.split(b"\n"):
            if line:
                self._take(line)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def facts(self) -> Mapping[str, tuple[str, ...]]:
        """Sentences by the key of their image."""
        return self._facts

    def of(self, image: bytes) -> tuple[str, ...] | None:
        """Sentences about an image; None where none have been asked for."""
        return self._facts.get(image_key(image))

    def add(self, found: Iterable[tuple[bytes, str, Sequence[str]]], *, keep: bool = True) -> None:
        """Adds the facts of images that are not in the book: content, name and sentences of each.

        Args:
          keep: Whether they also go to the file, in one write.
        """
        new = []
        for image, name, facts in found:
            key = image_key(image)
            if key not in self._facts:
                self._facts[key] = tuple(facts)
                new.append({"image": key, "name": name, "facts": list(facts)})
        if keep:
            self._append(new)

    def is_complete(self, revision: str) -> bool:
        """Whether all images of a data set have their facts."""
        return revision in self._complete and not self.num_damaged

    def complete(self, revision: str, *, keep: bool = True) -> None:
        """Marks a data set all of whose images have their facts; damaged lines are no longer missed.

        Args:
          keep: Whether the file is marked too; one with damaged lines is written anew without them.
        """
        self._complete.add(revision)
        if keep and self.num_damaged:
            replace_file(
                self.path,
                (line for line in self.path.read_text("utf-8", "replace").splitlines(keepends=True) if _entry(line)),
            )
            self._cut_short = False
        self.num_damaged = 0
        if keep:
            self._append([{"complete": revision}])

    def _append(self, entries: Sequence[Mapping[str, object]]) -> None:
        lines = [json.dumps({**entry, "check": _check(entry)}) + "\n" for entry in entries]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write((("\n" if self._cut_short else "") + "".join(lines)).encode())
            self._cut_short = False

    def _take(self, line: bytes) -> None:
        entry = _entry(line)
        if entry is None:
            self.num_damaged += 1
        elif "complete" in entry:
            self._complete.add(entry["complete"])
        else:
            self._facts.setdefault(entry["image"], tuple(entry["facts"]))


def _entry(line: bytes | str) -> dict[str, Any] | None:
    """The entry of a line; None where it is not as it was written."""
    try:
        entry = json.loads(line)
        return entry if entry.pop("check") == _check(entry) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _check(entry: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())


class RecordsWithFacts(Sequence[Record]):
    """Records whose facts are those that a model wrote about their image; one without any keeps its own."""

    def __init__(self, records: Sequence[Record], facts: Mapping[str, tuple[str, ...]]) -> None:
        self._records, self._facts = records, facts
        self.counts = records.counts if isinstance(records, Counted) else count_records(records)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> RecordsWithFacts: ...

    def __getitem__(self, index: int | slice) -> Record | RecordsWithFacts:
        if isinstance(index, slice):
            return RecordsWithFacts(self._records[index], self._facts)
        return with_facts(self._records[index], self._facts)


def with_facts(record: Record, facts: Mapping[str, tuple[str, ...]]) -> Record:
    """The record with the facts that were written about its image; without any, as it is."""
    found = facts.get(image_key(record.test_image))
    return record if found is None else dataclasses.replace(record, facts=found)
