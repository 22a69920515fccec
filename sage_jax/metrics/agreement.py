"""Agreement of two judges that mark the same answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from sklearn.metrics import cohen_kappa_score

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
    kinds, kind_of = np.unique(pairs, axis=1, return_inverse=True)
    has_kind = np.eye(kinds.shape[1])[kind_of.reshape(-1)]

    def kappas(weights: Float[np.ndarray, "S n"]) -> Float[np.ndarray, " S"]:
        return np.array([_kappa(kinds[:, counts > 0], counts[counts > 0]) for counts in weights @ has_kind])

    return bootstrap(kappas, groups, samples=samples, seed=seed)


def _kappa(pairs: np.ndarray, counts: np.ndarray) -> float:
    if len(np.unique(pairs)) < 2:
        return float("nan")
    return float(cohen_kappa_score(*pairs, labels=list(MARKS), weights="quadratic", sample_weight=counts))
