"""Bootstrap intervals of metrics whose examples come in groups (the questions of one image)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from sage_jax.axes import Float, Int

# A statistic of weighted examples: a row of weights is one data set, which holds example i `weights[row, i]` times.
# It gives one value a row, NaN where undefined there (an AUROC of one class).
Statistic: TypeAlias = Callable[[np.ndarray], np.ndarray]

_CHUNK_WEIGHTS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measured value with its 95 % interval.

    Attributes:
      value: The metric on the whole test set; None where undefined.
      low, high: Ends of the interval; None where undefined.
      n: What the value was measured on: questions, images or records; 0 where undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


UNDEFINED = Metric(value=None, low=None, high=None, n=0)


def bootstrap(
    statistic: Statistic, groups: Sequence[Hashable], *, samples: int = 1000, seed: int = 0, n: int | None = None
) -> Metric:
    """A statistic and its 95 % percentile bootstrap interval, drawing whole groups with replacement.

    Questions about one image share its difficulty, so that drawing them one by one would give an interval too narrow.
    Draws on which the statistic is undefined are left out. Few groups (below about 20) give an interval somewhat too
    narrow, and a statistic without any variation (all right) one of width 0: both are the method's, not rounding.

        >>> right = np.array([1.0, 1.0, 0.0, 1.0])
        >>> bootstrap(lambda weights: weights @ right / weights.sum(-1), ["a", "a", "b", "c"]).value
        0.75

    Args:
      statistic: Weights [S, n] to values [S]. The value reported is that of weights 1.
      groups: Group of each example, such as its image.
      samples: Draws.
      seed: Seed of the draws; the same seed gives the same interval.
      n: Count to report; by default the number of examples.

    Returns:
      The metric; `UNDEFINED` without examples, or where the statistic is undefined on all of them.
    """
    count = len(groups) if n is None else n
    return bootstrap_each(lambda weights: statistic(weights)[:, None], groups, [count], samples=samples, seed=seed)[0]


def bootstrap_each(
    statistics: Statistic, groups: Sequence[Hashable], counts: Sequence[int], *, samples: int = 1000, seed: int = 0
) -> list[Metric]:
    """Several statistics of the same examples, each as `bootstrap` gives it, from one set of draws.

    Args:
      statistics: Weights [S, n] to values [S, K]. The values reported are those of weights 1.
      groups: Group of each example, such as its image.
      counts: Count to report of each statistic.
      samples, seed: Of the draws.
    """
    if samples < 1:
        raise ValueError(f"bootstrap samples = {samples}: give 1 or more")
    if not groups:
        return [UNDEFINED for _ in counts]
    values = statistics(np.ones((1, len(groups))))[0]
    if np.isnan(values).all():
        return [UNDEFINED for _ in counts]
    indices: dict[Hashable, int] = {}
    members = np.array([indices.setdefault(group, len(indices)) for group in groups])
    draws = _draw_groups(len(indices), len(groups), samples, seed)
    drawn = np.concatenate([statistics(counted[:, members]) for counted in draws])
    return [
        _interval(float(value), column[~np.isnan(column)], n)
        for value, column, n in zip(values, drawn.T, counts, strict=True)
    ]


def _interval(value: float, defined: Float[np.ndarray, " S"], n: int) -> Metric:
    if np.isnan(value):
        return UNDEFINED
    low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (value, value)
    return Metric(value=value, low=float(low), high=float(high), n=n)


def bootstrap_mean(
    values: Sequence[float] | Float[np.ndarray, " n"],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Metric:
    """The mean of one value an example and its 95 % interval; NaN (unmeasured) is left out, and n counts the rest.

    Raises:
      ValueError: There are not as many groups as values.
    """
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values with {len(groups)} groups: give the group of each value")
    array = np.asarray(values, np.float64)
    known = ~np.isnan(array)
    array = array[known]
    return bootstrap(
        lambda weights: weights @ array / np.maximum(weights.sum(axis=-1), 1),
        [group for group, keep in zip(groups, known, strict=True) if keep],
        samples=samples,
        seed=seed,
    )


def _draw_groups(num_groups: int, num_examples: int, samples: int, seed: int) -> Iterator[Int[np.ndarray, "S g"]]:
    """How often each group was drawn, a row a draw, in chunks that keep the weights of examples within bounds."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_WEIGHTS // max(num_groups, num_examples))
    for start in range(0, samples, rows):
        yield generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=min(rows, samples - start))
