"""Accuracy on MMAD's questions, against plain counting, and its own evaluator, against its loop written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage_jax.metrics.mmad import (
    ANALYSIS,
    DETECTION,
    OF_ANALYSIS,
    TYPES,
    Choice,
    accuracy_of,
    official_accuracy,
    rivals,
)
from tests.support.official_mmad import official_table

DATASETS = ("DS-MVTec", "VisA", "GoodsAD")


def drawn(seed: int, number: int = 300) -> list[Choice]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        kind = str(rng.choice(TYPES))
        options = ("Yes.", "No.") if kind == DETECTION else tuple("x" * int(n) for n in rng.integers(1, 9, 4))
        image = f"{rng.choice(DATASETS)}/cap/test/{rng.choice(['good', 'crack'])}/{rng.integers(20)}.png"
        chosen = int(rng.integers(-1, len(options)))
        truth = int(rng.integers(len(options)))
        found.append(Choice(image, kind, options, truth, None if chosen < 0 else chosen))
    return found


def share(choices: list[Choice]) -> float:
    return sum(choice.chosen == choice.truth for choice in choices) / len(choices)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracies_are_those_of_plain_counting(seed: int) -> None:
    choices = drawn(seed)
    found = accuracy_of(choices, samples=100, seed=seed)
    for kind in TYPES:
        metric, own = found.by_type[kind], [choice for choice in choices if choice.kind == kind]
        assert metric.value == pytest.approx(share(own)) and metric.n == len(own)
        assert metric.low is not None and metric.high is not None and metric.low <= share(own) <= metric.high
    assert found.by_type[ANALYSIS].value == pytest.approx(share([c for c in choices if c.kind in OF_ANALYSIS]))
    assert found.overall.value == pytest.approx(share(choices))
    assert list(found.by_dataset) == list(dict.fromkeys(choice.dataset for choice in choices))
    for name in DATASETS:
        assert found.by_dataset[name].value == pytest.approx(share([c for c in choices if c.dataset == name]))
    assert found.unread == sum(choice.chosen is None for choice in choices) > 0

    def mean_of_types(some: list[Choice]) -> float:
        detected = [c for c in some if c.kind == DETECTION]
        sides = [[c for c in detected if c.truth == side] for side in (0, 1)]
        groups = [[c for c in some if c.kind == kind] for kind in TYPES if kind not in (DETECTION, *OF_ANALYSIS)]
        groups.append([c for c in some if c.kind in OF_ANALYSIS])
        cells = [share(each) for each in groups if each] + [float(np.mean([share(side) for side in sides if side]))]
        return float(np.mean(cells))

    detected = [c for c in choices if c.kind == DETECTION]
    sides = [share([c for c in detected if c.truth == side]) for side in (0, 1)]
    assert found.balanced.value == pytest.approx(sum(sides) / 2) and found.balanced.n == len(detected)
    assert found.mean_of_types.value == pytest.approx(mean_of_types(choices))
    each = [mean_of_types([c for c in choices if c.dataset == name]) for name in DATASETS]
    assert found.mean_of_datasets.value == pytest.approx(float(np.mean(each)))


def test_normal_is_told_by_the_right_answer_not_by_the_path() -> None:
    choices = [Choice("VisA/goodies/test/crack/1.png", DETECTION, ("Yes.", "No."), 0, 0)]
    choices += [Choice("VisA/goodies/test/ok/2.png", DETECTION, ("No", "Yes"), 0, 1)]
    assert accuracy_of(choices, samples=10).balanced.value == 0.5
    rows = [official_row(choice) for choice in choices]
    assert official_accuracy(rows)["VisA"][DETECTION] == 25.0  # both are "good", none is abnormal


def test_nothing_asked_is_nothing_measured() -> None:
    found = accuracy_of([])
    assert found.overall.value is None and found.by_type == {} and found.mean_of_datasets.n == 0
    assert official_accuracy([]) == {"Average": {}}


def test_readers_without_an_image_are_their_own_choices() -> None:
    choices = drawn(3)
    found = rivals(choices)
    assert all(each.chosen == 0 for each in found["always A"])
    for choice in found["longest"]:
        assert choice.chosen is not None
        assert len(choice.options[choice.chosen]) == max(map(len, choice.options))
    for kind in TYPES:
        own = [choice for choice in choices if choice.kind == kind]
        counts = [sum(choice.truth == number for choice in own) for number in range(4)]
        right = sum(c.chosen == c.truth for c in found["best letter"] if c.kind == kind)
        assert right == max(counts)
        assert len({c.chosen for c in found["best letter"] if c.kind == kind}) == 1


def official_row(choice: Choice) -> dict[str, Any]:
    return {
        "image": choice.image,
        "question_type": choice.kind,
        "correct_answer": "ABCDE"[choice.truth],
        "gpt_answer": "" if choice.chosen is None else "ABCDE"[choice.chosen],
    }


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_official_number_is_that_of_the_official_loop(seed: int) -> None:
    rows = [official_row(choice) for choice in drawn(seed, 200)]
    rows = [row for row in rows if row["question_type"] != TYPES[1] or not row["image"].startswith("VisA")]
    found, expected = official_accuracy(rows), official_table(rows)
    assert found.keys() == expected.keys() and found["VisA"][TYPES[1]] == 0.0
    for name, columns in expected.items():
        assert found[name] == pytest.approx(columns), name
    assert any(row["gpt_answer"] == "" for row in rows)
