"""Faults of one cause as one row: what a long list of them says in a few lines."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Final

from sage_jax.data.records import Fault
from sage_jax.errors import plain

_NAMED: Final = 2
_VARIES: Final = re.compile(
    r"""'[^']*'|"[^"]*"             # what is quoted
    |(?:\b[A-Za-z]:)?[^\s:;,()]*[/\\][^\s:;,()]*  # a path
    |[^\s:;,()]+\.[A-Za-z]\w{1,4}\b  # a file name
    |-?\d+(?:\.\d+)?              # a number""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class Cause:
    """Faults that differ in nothing but names and numbers, in the order of finding; `str` is their row."""

    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        first, others = self.faults[0], self.faults[1:]
        if not others:
            return str(first)
        places = [_place(fault) for fault in others if _place(fault) != _place(first)]
        named = list(dict.fromkeys(places))[:_NAMED]
        where = f", such as {' and '.join(named)}" if named else ""
        return plain(f"{len(self.faults)} of one cause: {first}, and {len(others)} more{where}")


def by_cause(faults: Iterable[Fault]) -> tuple[Cause, ...]:
    """The faults, those of one cause together, in the order of each cause's first one.

    What is quoted, paths, file names and numbers do not count: they say where a fault is, not what it is.
    """
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((_VARIES.sub("_", fault.problem), _VARIES.sub("_", fault.cure)), []).append(fault)
    return tuple(Cause(tuple(group)) for group in groups.values())


def rows_of(causes: Sequence[Cause], most: int) -> str:
    """The rows of the first causes, one a line, and how many there are beyond."""
    beyond = len(causes) - most
    rows = [*map(str, causes[:most]), *([f"and {beyond} more causes"] if beyond > 0 else [])]
    return "\n  ".join(rows)


def told(faults: Sequence[Fault], most: int) -> str:
    """What is wrong, in as many rows as there are causes, at most so many; one fault alone as it is."""
    causes = by_cause(faults)
    head = "" if len(causes) == 1 else f"{len(faults)} faults of {len(causes)} causes:\n  "
    return head + rows_of(causes, most)


def _place(fault: Fault) -> str:
    return fault.file if fault.line is None else f"{fault.file}:{fault.line}"
