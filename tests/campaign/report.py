"""The counts of a campaign."""

from __future__ import annotations

import collections
import dataclasses
from typing import Final

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
        """Whether any case ended as it should not."""
        return bool(self.failures)

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(kind for kind, _ in self.counts))
        outcomes = sorted({outcome for _, outcome in self.counts})
        lines = ["| | " + " | ".join(outcomes) + " |", "|---|" + "---|" * len(outcomes)]
        for kind in kinds:
            cells = (str(self.counts.get((kind, outcome), "")) for outcome in outcomes)
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
        total = sum(self.counts.values())
        return "\n".join([*lines, *self.failures, f"{total} cases, {len(self.failures)} failed"])
