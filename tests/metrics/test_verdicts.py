"""Verdicts read from answers, their accuracies and the predictions file."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sage_jax.metrics.verdicts import (
    Prediction,
    accuracy_by_kind,
    count_unparsable,
    count_without_verdict,
    group_accuracy,
    kinds_told_apart,
    verdict_accuracy,
    with_verdict,
    write_predictions,
    write_released_predictions,
)


def predictions_of(rows: Sequence[tuple[str, str, str, str, bool | None]]) -> list[Prediction]:
    """Predictions from (record, image, kind, answer, truth)."""
    return [
        Prediction(record, image, f"{image}.png", kind, "", "Is it good?", "Yes.", answer, truth)
        for record, image, kind, answer, truth in rows
    ]


def test_unparsable_answer_is_wrong_for_either_truth_and_counted():
    items = predictions_of([("r", "i", "k", "Perhaps.", True), ("r", "i", "k", "Perhaps.", False)])
    assert verdict_accuracy(items).value == 0.0
    assert verdict_accuracy(items).n == 2
    assert count_unparsable(items) == 2


def about_scratches(answers: Sequence[tuple[str, str, bool]]) -> list[tuple[Prediction, bool]]:
    """A good image's two questions, and those of defective images from (image, answer, whether it is scratched)."""
    texts = {True: "Is there a scratch?", False: "Is it free of scratches?"}
    good = [
        (Prediction("g", "g", "g.png", "k", "good", texts[yes], "", "No." if yes else "Yes.", not yes), False)
        for yes in (True, False)
    ]
    others = []
    for number, (image, answer, scratched) in enumerate(answers):
        yes = number % 2 == 0
        others.append((Prediction(image, image, "", "k", "x", texts[yes], "", answer, scratched == yes), True))
    return good + others


def test_who_sees_that_a_part_is_defective_and_no_more_tells_no_kinds_apart():
    rng = random.Random(3)
    scratched = [rng.random() < 0.85 for _ in range(400)]
    true = ["Yes." if each == (number % 2 == 0) else "No." for number, each in enumerate(scratched)]
    always = ["Yes." if number % 2 == 0 else "No." for number in range(400)]
    never = ["No." if number % 2 == 0 else "Yes." for number in range(400)]
    images = [str(number // 5) for number in range(400)]
    found = [
        kinds_told_apart(about_scratches(list(zip(images, said, scratched, strict=True))))
        for said in (true, always, never)
    ]
    assert [each.value for each in found] == [1.0, 0.5, 0.5] and {each.n for each in found} == {400}
    right = [said == answer for said, answer in zip(always, true, strict=True)]
    assert np.mean(right) > 0.8  # what plain accuracy makes of it
    mixed = [said if rng.random() < 0.7 else answer for said, answer in zip(always, true, strict=True)]
    shares = [
        np.mean([said == answer for said, answer, each in zip(mixed, true, scratched, strict=True) if each == shows])
        for shows in (True, False)
    ]
    some = kinds_told_apart(about_scratches(list(zip(images, mixed, scratched, strict=True))))
    assert some.value == pytest.approx(np.mean(shares))
    assert some.low is not None and some.high is not None and some.low < np.mean(shares) < some.high


def test_kinds_are_told_apart_only_where_good_parts_were_asked_the_same():
    asked = about_scratches([("a", "Yes.", True), ("b", "Yes.", False), ("c", "No.", False), ("d", "No.", True)])
    assert kinds_told_apart(asked).n == 4 and kinds_told_apart(asked[2:]).value is None
    both = dataclasses.replace(asked[0][0], truth=True)
    assert kinds_told_apart([(both, False), *asked]).n == 2
    assert kinds_told_apart([*asked, (dataclasses.replace(asked[2][0], truth=None), True), (asked[2][0], None)]).n == 4


def test_questions_without_a_verdict_are_counted_and_in_no_metric(tmp_path: Path):
    told = predictions_of([("r", "i", "k", "Yes.", True), ("s", "j", "k", "Hm.", False)])
    untold = predictions_of([("r", "i", "k", "A cap.", None), ("t", "l", "other", "Yes.", None)])
    items = [untold[0], *told, untold[1]]
    assert not untold[0].right and with_verdict(items) == told and count_without_verdict(items) == 2
    assert count_unparsable(items) == 1 and verdict_accuracy(items) == verdict_accuracy(told)
    assert group_accuracy(items) == group_accuracy(told) and accuracy_by_kind(items) == accuracy_by_kind(told)
    assert verdict_accuracy(untold).value is None and accuracy_by_kind(untold) == {}
    write_predictions(tmp_path / "p.jsonl", items)
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["ground_truth"] for line in lines] == [None, True, False, None]


def test_accuracies_equal_a_plain_count():
    rng = random.Random(0)
    rows = []
    for image in range(40):
        for kind in ("standard comparison", "defect diagnosis"):
            for _ in range(5):
                answer = rng.choice(["Yes.", "Yes.", "Yes.", "Yes, a scratch.", "No.", "Hm."])
                rows.append((f"{image}/{kind}", str(image), kind, answer, True))
    items = predictions_of(rows)
    right = [row[3].startswith("Yes") for row in rows]
    assert verdict_accuracy(items, samples=20).value == pytest.approx(sum(right) / len(right))
    by_kind = accuracy_by_kind(items, samples=20)
    assert list(by_kind) == ["defect diagnosis", "standard comparison"]
    of_kind = [hit for hit, row in zip(right, rows, strict=True) if row[2] == "defect diagnosis"]
    assert by_kind["defect diagnosis"].value == pytest.approx(sum(of_kind) / len(of_kind))
    all_right = [all(right[start : start + 5]) for start in range(0, len(right), 5)]
    group = group_accuracy(items, samples=20)
    assert group.value == pytest.approx(sum(all_right) / len(all_right))
    assert group.n == 80
    assert 0 < sum(all_right) < 80


def test_acc_g_does_not_depend_on_the_order_of_questions():
    rows = [
        ("a", "x", "k", "Yes", True),
        ("b", "y", "k", "No", True),
        ("a", "x", "k", "No", False),
        ("b", "y", "k", "Yes", True),
    ]
    assert group_accuracy(predictions_of(rows), samples=20) == group_accuracy(predictions_of(rows[::-1]), samples=20)
    assert group_accuracy(predictions_of(rows), samples=20).value == 0.5


def test_predictions_file_has_the_released_evaluators_fields(tmp_path: Path):
    items = predictions_of([("r1", "i1", "k", "No, 5 µm too wide", False), ("r2", "i2", "k", "Hm", True)])
    write_predictions(tmp_path / "out" / "p.jsonl", items, extra=[{"score": 0.25}, {"score": 0.5}])
    rows = [json.loads(line) for line in (tmp_path / "out" / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    released = {"id", "image", "label", "question", "answer", "prediction", "ground_truth", "dichotomy"}
    assert all(released <= row.keys() for row in rows)
    assert rows[0]["dichotomy"] is False and rows[0]["ground_truth"] is False and rows[0]["score"] == 0.25
    assert rows[1]["dichotomy"] is None and rows[1]["ground_truth"] is True
    accuracy = sum(row["dichotomy"] == row["ground_truth"] for row in rows) / len(rows)
    assert accuracy == verdict_accuracy(items).value


def test_extra_fields_cannot_replace_a_prediction(tmp_path: Path):
    items = predictions_of([("r1", "i1", "k", "No", False)])
    with pytest.raises(ValueError, match="'prediction'"):
        write_predictions(tmp_path / "p.jsonl", items, extra=[{"prediction": "Yes"}])
    with pytest.raises(ValueError, match="2 rows"):
        write_predictions(tmp_path / "p.jsonl", items, extra=[{}, {}])
    assert not list(tmp_path.iterdir())


def read_as_released(path: Path) -> dict[str, float]:
    """The documented reading: a list, equal truth and verdict is right, five rows in order are a group."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    right = [row["ground_truth"] == row["dichotomy"] for row in rows]
    groups = [all(right[start : start + 5]) for start in range(0, len(rows), 5)]
    found = {"accuracy": sum(right) / len(right), "acc_g": sum(groups) / len(groups)}
    for kind in ("standard comparison", "defect identification", "defect diagnosis"):
        of_kind = [hit for hit, row in zip(right, rows, strict=True) if row["label"] == kind]
        found[kind] = sum(of_kind) / len(of_kind)
    return found


def test_the_released_evaluator_reads_the_list_as_we_do(tmp_path: Path) -> None:
    rng = random.Random(1)
    kinds = ("standard comparison", "defect identification", "defect diagnosis")
    rows = [
        (
            f"{image}/{kind}",
            str(image),
            kind,
            rng.choice(["Yes.", "True: a scratch.", "No.", "False."]),
            rng.random() < 0.5,
        )
        for image in range(20)
        for kind in kinds
        for _ in range(5)
    ]
    items = predictions_of(rows)
    write_released_predictions(tmp_path / "sfe.json", items)
    found = read_as_released(tmp_path / "sfe.json")
    assert found["accuracy"] == pytest.approx(verdict_accuracy(items, samples=2).value)
    assert found["acc_g"] == pytest.approx(group_accuracy(items, samples=2).value)
    for kind, metric in accuracy_by_kind(items, samples=2).items():
        assert found[kind] == pytest.approx(metric.value)
    row = json.loads((tmp_path / "sfe.json").read_text())[0]
    assert (row["question"], row["reference_answer"], row["test_answer"]) == ("Is it good?", "Yes.", items[0].answer)


def test_an_answer_without_a_verdict_is_no_to_the_released_evaluator(tmp_path: Path) -> None:
    items = predictions_of([("r", "i", "defect diagnosis", "Perhaps.", truth) for truth in (True, False)])
    write_released_predictions(tmp_path / "sfe.json", items)
    assert [row["dichotomy"] for row in json.loads((tmp_path / "sfe.json").read_text())] == [False, False]
