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

from sage_jax.metrics.intervals import Metric, bootstrap_each
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

_Cells: TypeAlias = "int | list[_Cells]"
"""A cell, whose accuracy counts; or cells, whose mean does."""


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
    table = _CellTable(choices)
    everything = np.arange(len(choices))
    kinds = _numbers(choice.kind for choice in choices)
    datasets = _numbers(choice.dataset for choice in choices)
    by_type = {kind: kinds[kind] for kind in TYPES if kind in kinds}
    if analysis := [kinds[kind] for kind in OF_ANALYSIS if kind in kinds]:
        by_type[ANALYSIS] = np.concatenate(analysis)
    detection = kinds.get(DETECTION, everything[:0])
    wanted: list[tuple[_Cells, int]] = [
        *((table.cell(members), len(members)) for members in (*by_type.values(), *datasets.values(), everything)),
        (table.by_truth(detection), len(detection)),
        (table.by_type(everything), len(everything)),
        ([table.by_type(members) for members in datasets.values()], len(everything)),
    ]
    found = table.metrics(wanted, samples=samples, seed=seed)
    *cells, overall, balanced, mean_of_types, mean_of_datasets = found
    return ChoiceAccuracy(
        by_type=dict(zip(by_type, cells, strict=False)),
        balanced=balanced,
        by_dataset=dict(zip(datasets, cells[len(by_type) :], strict=True)),
        overall=overall,
        mean_of_types=mean_of_types,
        mean_of_datasets=mean_of_datasets,
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


class _CellTable:
    """Questions and right answers of each image in each cell, for which intervals over images need no question."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = choices
        self._right = np.array([choice.right for choice in choices], np.float64)
        self._images = list(dict.fromkeys(choice.image for choice in choices))
        number = {image: index for index, image in enumerate(self._images)}
        self._image_of = np.array([number[choice.image] for choice in choices], np.int64)
        self._columns: list[tuple[np.ndarray, np.ndarray]] = []

    def cell(self, members: np.ndarray) -> int:
        """The cell of some questions."""
        images, size = self._image_of[members], len(self._images)
        asked = np.bincount(images, minlength=size).astype(np.float64)
        self._columns.append((np.bincount(images, self._right[members], size), asked))
        return len(self._columns) - 1

    def by_truth(self, members: np.ndarray) -> list[_Cells]:
        """The cells of each right answer."""
        of = (self._choices[i] for i in members)
        texts = (choice.options[choice.truth].lower().strip(" .!") for choice in of)
        return [self.cell(members[numbers]) for numbers in _numbers(texts).values()]

    def by_type(self, members: np.ndarray) -> list[_Cells]:
        """The cells whose mean is that over types."""
        kinds = (self._choices[i].kind for i in members)
        found = _numbers(ANALYSIS if kind in OF_ANALYSIS else kind for kind in kinds)
        cells = {kind: members[numbers] for kind, numbers in found.items()}
        return [self.by_truth(own) if kind == DETECTION else self.cell(own) for kind, own in cells.items()]

    def metrics(self, wanted: Sequence[tuple[_Cells, int]], *, samples: int, seed: int) -> list[Metric]:
        """The accuracy or mean accuracy of cells, each with the number of its questions."""
        right, asked = (np.stack(columns, axis=1) for columns in zip(*self._columns, strict=True))

        def statistics(weights: np.ndarray) -> np.ndarray:
            weights = weights.astype(np.float64)  # products of integers are slow
            of = weights @ asked
            shares = np.where(of > 0, weights @ right / np.maximum(of, 1), np.nan)
            return np.stack([_value(cells, shares) for cells, _ in wanted], axis=1)

        return bootstrap_each(statistics, self._images, [n for _, n in wanted], samples=samples, seed=seed)


def _value(cells: _Cells, shares: np.ndarray) -> np.ndarray:
    """Accuracy of a cell, or mean over cells, for each row; a cell that a draw lacks is left out of its mean."""
    if isinstance(cells, int):
        return shares[:, cells]
    if not cells:
        return np.full(len(shares), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing, which are NaN
        return np.nanmean(np.stack([_value(cell, shares) for cell in cells]), axis=0)
