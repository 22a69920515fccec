"""Accuracy on MMAD's multiple-choice questions, by type and data set, and the number that its own evaluator gives.

MMAD: Jiang et al., ICLR 2025, arXiv 2410.09453. The official evaluator leaves answers without a letter out of the
denominator, passes over the row behind each of them, tells normal images by "good" in their path, and counts a type
that a data set lacks as 0. None of these holds of `accuracy_of`; `official_accuracy` does what that evaluator does.
"""

from __future__ import annotations

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from sage_jax.metrics.intervals import UNDEFINED, Metric, bootstrap
from sage_jax.metrics.letters import LETTERS

DETECTION: Final = "Anomaly Detection"
ANALYSIS: Final = "Object Analysis"
OF_ANALYSIS: Final = ("Object Structure", "Object Details")
TYPES: Final = (
    DETECTION,
    *("Defect Classification", "Defect Localization", "Defect Description", "Defect Analysis"),
    *("Object Classification", *OF_ANALYSIS),
)
"""Types of questions, as mmad.json names them."""

_Cells: TypeAlias = "np.ndarray | list[_Cells]"
"""Numbers of the questions of a cell, whose accuracy counts; or cells, whose mean does."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A question and the option that was chosen.

    Attributes:
      image: Path of the image; its first folder is the data set.
      kind: One of `TYPES`.
      options: Texts of the options, A first.
      truth: Number of the right one.
      chosen: Number of the chosen one; None = none could be read, which is wrong.
    """

    image: str
    kind: str
    options: tuple[str, ...]
    truth: int
    chosen: int | None

    @property
    def dataset(self) -> str:
        return self.image.split("/")[0]

    @property
    def right(self) -> bool:
        return self.chosen == self.truth


@dataclasses.dataclass(frozen=True)
class ChoiceAccuracy:
    """Accuracies, 0 to 1, with intervals over images.

    Attributes:
      by_type: Of each type that occurs, and of both that make `Object Analysis` together.
      balanced: Of anomaly detection, the mean over the right answers ("Yes.", "No.") of the share found.
      by_dataset: Of each data set.
      overall: Of all questions.
      mean_of_types: Mean over the types, detection balanced and object analysis as one.
      mean_of_datasets: Mean over the data sets of their mean over types.
      unread: Questions without a letter, counted as wrong.
    """

    by_type: dict[str, Metric]
    balanced: Metric
    by_dataset: dict[str, Metric]
    overall: Metric
    mean_of_types: Metric
    mean_of_datasets: Metric
    unread: int


def accuracy_of(choices: Sequence[Choice], *, samples: int = 1000, seed: int = 0) -> ChoiceAccuracy:
    """All accuracies of some answered questions."""
    right = np.array([choice.right for choice in choices], np.float64)
    images = [choice.image for choice in choices]

    def metric(cells: _Cells) -> Metric:
        members = np.array(sorted(set(_members(cells))), np.int64)
        if not members.size:
            return UNDEFINED
        place = np.zeros(len(choices), np.int64)
        place[members] = np.arange(len(members))
        inside = right[members]
        own = _replaced(cells, place)
        return bootstrap(
            lambda weights: _value(own, weights, inside), [images[i] for i in members], samples=samples, seed=seed
        )

    kinds = _numbers(choice.kind for choice in choices)
    datasets = _numbers(choice.dataset for choice in choices)
    by_type = {kind: metric(kinds[kind]) for kind in TYPES if kind in kinds}
    if analysis := [kinds[kind] for kind in OF_ANALYSIS if kind in kinds]:
        by_type[ANALYSIS] = metric(np.concatenate(analysis))
    return ChoiceAccuracy(
        by_type=by_type,
        balanced=metric(_by_truth(choices, kinds.get(DETECTION, np.zeros(0, np.int64)))),
        by_dataset={name: metric(members) for name, members in datasets.items()},
        overall=metric(np.arange(len(choices))),
        mean_of_types=metric(_by_type(choices, np.arange(len(choices)))),
        mean_of_datasets=metric([_by_type(choices, members) for members in datasets.values()]),
        unread=sum(choice.chosen is None for choice in choices),
    )


def rivals(choices: Sequence[Choice]) -> dict[str, list[Choice]]:
    """Readers that see no image: the best letter of each type, known from the answers; always A; the longest option."""
    right = collections.defaultdict(collections.Counter)
    for choice in choices:
        right[choice.kind][choice.truth] += 1
    best = {kind: max(sorted(counts), key=lambda number: counts[number]) for kind, counts in right.items()}

    def of(chosen: Callable[[Choice], int]) -> list[Choice]:
        return [dataclasses.replace(choice, chosen=chosen(choice)) for choice in choices]

    return {
        "best letter": of(lambda choice: best[choice.kind]),
        "always A": of(lambda choice: 0),
        "longest": of(lambda choice: max(range(len(choice.options)), key=lambda i: len(choice.options[i]))),
    }


def official_accuracy(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What MMAD's own evaluator makes of its answer file, faults and all, in percent.

    Args:
      rows: Of the file: `image`, `question_type`, `correct_answer`, `gpt_answer`.

    Returns:
      By data set and type, with `Average` as a further column and as a further row.
    """
    rows = list(rows)
    datasets = list(dict.fromkeys(row["image"].split("/")[0] for row in rows))
    kinds = list(dict.fromkeys(_official_type(row) for row in rows))
    total, correct, normal = (collections.Counter() for _ in range(3))
    passed_over = False  # it removes rows from the list that it walks through, and so misses the next one
    for row in rows:
        if passed_over:
            passed_over = False
            continue
        if not {row["correct_answer"], row["gpt_answer"]} <= set(LETTERS[:5]):
            passed_over = True
            continue
        cell = (row["image"].split("/")[0], _official_type(row))
        right = row["correct_answer"] == row["gpt_answer"]
        total[cell] += 1
        correct[cell] += right
        if cell[1] == DETECTION:
            side = (cell[0], "good" in row["image"])
            normal[(*side, "total")] += 1
            normal[(*side, "correct")] += right

    def share(found: int, of: int) -> float:
        return 100.0 * found / of if of else 0.0

    table: dict[str, dict[str, float]] = {}
    for name in datasets:
        table[name] = {kind: share(correct[name, kind], total[name, kind]) for kind in kinds}
        if DETECTION in kinds:
            sides = [share(normal[name, good, "correct"], normal[name, good, "total"]) for good in (True, False)]
            table[name][DETECTION] = sum(sides) / 2
        table[name]["Average"] = sum(table[name].values()) / len(kinds)
    columns = [*kinds, "Average"] if datasets else []
    table["Average"] = {column: sum(table[name][column] for name in datasets) / len(datasets) for column in columns}
    return table


def _official_type(row: Mapping[str, Any]) -> str:
    return ANALYSIS if row["question_type"] in OF_ANALYSIS else row["question_type"]


def _numbers(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Numbers of the questions of each name, in the order of first appearance."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    return {name: np.array(numbers, np.int64) for name, numbers in found.items()}


def _by_truth(choices: Sequence[Choice], members: np.ndarray) -> list[_Cells]:
    texts = [choices[i].options[choices[i].truth].lower().strip(" .!") for i in members]
    return [members[numbers] for numbers in _numbers(texts).values()]


def _by_type(choices: Sequence[Choice], members: np.ndarray) -> list[_Cells]:
    """The cells whose mean is that over types."""
    joined = (ANALYSIS if choices[i].kind in OF_ANALYSIS else choices[i].kind for i in members)
    cells = {kind: members[numbers] for kind, numbers in _numbers(joined).items()}
    return [_by_truth(choices, inside) if kind == DETECTION else inside for kind, inside in cells.items()]


def _members(cells: _Cells) -> Iterable[int]:
    if isinstance(cells, np.ndarray):
        yield from cells.tolist()
    else:
        for cell in cells:
            yield from _members(cell)


def _replaced(cells: _Cells, place: np.ndarray) -> _Cells:
    return place[cells] if isinstance(cells, np.ndarray) else [_replaced(cell, place) for cell in cells]


def _value(cells: _Cells, weights: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Accuracy of a cell, or mean over cells, for each row of weights; a cell that a draw lacks is left out of it."""
    if isinstance(cells, np.ndarray):
        inside = weights[:, cells]
        of = inside.sum(axis=-1)
        return np.where(of > 0, inside @ right[cells] / np.maximum(of, 1), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing, which are NaN
        return np.nanmean(np.stack([_value(cell, weights, right) for cell in cells]), axis=0)
