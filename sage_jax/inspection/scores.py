"""The scores of an inspection on one axis: a histogram, and what other thresholds would call defective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

import numpy as np
from scipy import special

from sage_jax.inspection.report import InspectionRow

LABELS: Final = ("good", "defective", "unknown")
"""Known labels of images, and of those without one."""

_FARTHEST: Final = 14.0
"""Log-odds at the ends of the axis; scores are told apart to 1e-6."""
_STEPS: Final = 280
_BARS: Final = 40
_TICKS: Final = (0.00001, 0.001, 0.1, 0.5, 0.9, 0.999, 0.99999)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A piece of a bar of the histogram: where it begins and how wide and high it is, as shares of the picture."""

    label: str
    left: float
    width: float
    bottom: float
    height: float


@dataclasses.dataclass(frozen=True)
class ScoreCounts:
    """Images with a score and a verdict, good or defective, by label.

    Attributes:
      thresholds: Scores, ascending from 0, the report's own among them.
      at_or_above: By label: images at or above each.
      chosen: Position of the report's own threshold.
    """

    thresholds: tuple[float, ...]
    at_or_above: dict[str, tuple[int, ...]]
    chosen: int

    @property
    def positions(self) -> list[float]:
        """Where each threshold stands on the axis, 0 to 1."""
        return [_position(value) for value in self.thresholds]

    def bars(self) -> list[Bar]:
        """The histogram over log-odds, labels stacked; the highest bar has height 1."""
        edges = np.searchsorted(self.thresholds, special.expit(np.linspace(-_FARTHEST, _FARTHEST, _BARS + 1)[1:-1]))
        counts = {}
        for label, above in self.at_or_above.items():
            at_edges = np.array([above[0], *(above[min(edge, len(above) - 1)] for edge in edges), 0])
            counts[label] = at_edges[:-1] - at_edges[1:]
        most = max(1, int(np.sum(list(counts.values()), axis=0).max()))
        found = []
        for index in range(_BARS):
            bottom = 0.0
            for label in LABELS:
                if number := int(counts[label][index]):
                    found.append(Bar(label, index / _BARS, 1.0 / _BARS, bottom, number / most))
                    bottom += number / most
        return found


def ticks() -> list[tuple[str, float]]:
    """Scores to write at the axis, and their positions on it."""
    return [(f"{value:g}", _position(value)) for value in _TICKS]


def count_scores(rows: Iterable[InspectionRow], threshold: float) -> ScoreCounts:
    """Counts over rows that need not be in memory together; unsure and unreadable ones are left out.

    Args:
      threshold: The report's own.
    """
    grid = special.expit(np.linspace(-_FARTHEST, _FARTHEST, _STEPS + 1)[1:])
    thresholds = np.unique([0.0, *grid, threshold])
    number = {label: np.zeros(len(thresholds), np.int64) for label in LABELS}
    for row in rows:
        if row.score is not None and row.verdict in ("good", "defective"):
            number[row.truth or "unknown"][np.searchsorted(thresholds, row.score, side="right") - 1] += 1
    above = {label: tuple(int(each) for each in np.cumsum(counts[::-1])[::-1]) for label, counts in number.items()}
    return ScoreCounts(tuple(thresholds.tolist()), above, int(np.searchsorted(thresholds, threshold)))


def _position(score: float) -> float:
    return float(np.clip(special.logit(score) / (2.0 * _FARTHEST) + 0.5, 0.0, 1.0))
