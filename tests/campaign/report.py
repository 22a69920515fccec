"""The counts of a campaign, and the rows of one that goes on where it was stopped."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sage_jax.process.files import replace_file

GOOD: Final = frozenset({"same", "told", "refused", "read", "rebuilt"})
"""Outcomes that are as they should be."""


@dataclasses.dataclass
class Report:
    """How the cases of a campaign ended.

    Attributes:
      counts: Cases by kind and outcome.
      failures: What failed, a line each.
    """

    counts: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, kind: str, outcome: str, about: str = "") -> None:
        """Counts a case."""
        self.counts[kind, outcome] += 1
        if outcome not in GOOD:
            self.failures.append(f"{kind}: {outcome}: {about}")

    @property
    def failed(self) -> bool:
        """Whether any case ended as it should not, or there was none, which shows nothing."""
        return bool(self.failures) or not self.counts

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(kind for kind, _ in self.counts))
        outcomes = sorted({outcome for _, outcome in self.counts})
        lines = ["| | " + " | ".join(outcomes) + " |", "|---|" + "---|" * len(outcomes)]
        for kind in kinds:
            cells = (str(self.counts.get((kind, outcome), "")) for outcome in outcomes)
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
        total = sum(self.counts.values())
        return "\n".join([*lines, *self.failures, f"{total} cases, {len(self.failures)} failed"])


def chosen(only: str, names: Iterable[str]) -> list[str]:
    """Kinds of a campaign: those named with commas between, or all.

    Raises:
      SystemExit: There is no such kind; the message has those there are.
    """
    known = list(names)
    wanted = only.split(",") if only else known
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--only: there is no {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return wanted


def rows_of(path: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Rows of a seed's cases that were done before, by turn; a line that a kill cut short is taken out of the file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        replace_file(path, "".join(lines[:-1]))
        lines.pop()
    rows = [json.loads(line) for line in lines]
    return {row["turn"]: row for row in rows if row["seed"] == seed}


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Writes a case's row behind the others."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
