"""Agreement of two judges that mark the same answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np

from sage_jax.axes import Float
from sage_jax.metrics.intervals import Metric, bootstrap

MARKS: Final = (1, 2, 3, 4, 5)
"""The marks of MLE, worst first."""


def weighted_kappa(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Metric:
    """Cohen's kappa with quadratic weights (Cohen 1968) of two judges, and its 95 % interval over groups.

    1 = the same marks, 0 = as much agreement as marks given by chance in the same shares, below 0 = less. A
    disagreement weighs by the square of the difference of the marks. Marks between two whole ones are rounded, halves
    up. Undefined where both judges give one and the same mark to all.

    Args:
      first, second: Marks of each judge, 1 to 5, by example.
      groups: Group of each example, such as its image.
      samples, seed: As in `bootstrap`.

    Raises:
      ValueError: A mark is out of range, or there are not as many of them on both sides.
    """
    if not len(first) == len(second) == len(groups):
        raise ValueError(f"{len(first)} and {len(second)} marks with {len(groups)} groups: give one each")
    pairs = np.floor(np.asarray([first, second], np.float64).reshape(2, -1) + 0.5).astype(int)
    if pairs.size and (pairs.min() < MARKS[0] or pairs.max() > MARKS[-1]):
        raise ValueError(f"marks from {pairs.min()} to {pairs.max()}: give marks from {MARKS[0]} to {MARKS[-1]}")
    # At most 25 pairs are different: a draw is told by how often it has each.
    has_pair = np.eye(len(MARKS) ** 2)[(pairs[0] - 1) * len(MARKS) + pairs[1] - 1]

    def kappas(weights: Float[np.ndarray, "S n"]) -> Float[np.ndarray, " S"]:
        return _kappas((weights @ has_pair).reshape(-1, len(MARKS), len(MARKS)))

    return bootstrap(kappas, groups, samples=samples, seed=seed)


def _kappas(counts: Float[np.ndarray, "S 5 5"]) -> Float[np.ndarray, " S"]:
    """Kappa of each table of counts, by the mark of the first judge and that of the second."""
    disagreement = np.square(np.subtract.outer(MARKS, MARKS)).astype(np.float64)
    first, second = counts.sum(axis=2), counts.sum(axis=1)
    observed = np.sum(counts * disagreement, axis=(1, 2)) * counts.sum(axis=(1, 2))
    by_chance = np.einsum("si,ij,sj->s", first, disagreement, second)
    ratio = np.divide(observed, by_chance, out=np.full(len(counts), np.nan), where=by_chance > 0)
    return 1.0 - ratio
