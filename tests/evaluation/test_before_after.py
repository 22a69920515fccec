"""Before and after, side by side: what fell beyond noise, and what is counted as right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.records import Record
from sage_jax.data.sources.readers import read_records
from sage_jax.evaluation.before_after import Values, compare, right_questions, right_verdicts
from sage_jax.metrics.score_shifts import shifted
from sage_jax.verdict import ScoreShifts, parse_verdict


def values(right: np.ndarray) -> Values:
    return {str(index): [float(each)] for index, each in enumerate(right)}


def test_a_change_that_is_noise_does_not_fall_and_a_large_one_does() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(300) < 0.9).astype(float)
    noise, fallen = before.copy(), before.copy()
    noise[:2] = 1.0 - noise[:2]
    fallen[rng.choice(300, 30, replace=False)] = 0.0
    found = compare({"a": values(before), "b": values(before)}, {"a": values(noise), "b": values(fallen)}, **SAMPLES)
    assert not found["a"].fell and found["b"].fell
    assert found["b"].gain.value == pytest.approx(fallen.mean() - before.mean())
    assert found["b"].before.value == pytest.approx(before.mean())
    assert found["b"].as_json()["fell"] is True and found["b"].as_json()["gain"]["n"] == 300


SAMPLES = {"samples": 500, "seed": 0}


def test_a_measure_without_images_is_left_out() -> None:
    assert compare({"a": {}, "b": {"1": []}}, {"a": {}, "b": {"1": []}}, **SAMPLES) == {}


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores records by a table: question number -> score, to whose log-odds the shifts are added."""

    score: Any
    shifts: ScoreShifts = ScoreShifts()
    chat: Any = dataclasses.field(default_factory=lambda: type("Chat", (), {"language": "en"})())
    asked: list[bool] = dataclasses.field(default_factory=list)

    def scores(self, records: Sequence[Record], *, with_reference: bool, advance: Any) -> Iterator[Any]:
        for index in range(len(records)):
            record = records[index]
            self.asked.append(with_reference)
            assert (record.reference_image is not None) == with_reference
            scores = [self.score(record, question) for question in record.questions]
            found = [*shifted(scores[:1], self.shifts.of(record.category)), *scores[1:]]
            yield record, type("Scores", (), {"verdict_score": np.asarray(found, np.float32)})()
        advance(1)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    data = DataConfig(num_train=12, num_test=1, image_px=32)
    found = [each for each in read_records(data, "train", 1) if isinstance(each, Record)]
    return [dataclasses.replace(each, reference_image=None) if i % 3 == 0 else each for i, each in enumerate(found)]


def test_verdicts_follow_the_threshold_of_images_with_and_without_a_reference(records: list[Record]) -> None:
    scorer: Any = Scorer(lambda record, question: 0.6)
    plain = {True: ScoreShifts(), False: ScoreShifts()}
    found = right_verdicts(scorer, records, {True: 0.5, False: 0.7}, plain, lambda done: None)
    for record in records:
        called = record.reference_image is not None
        assert found[record.image_id] == [float(called == record.anomalous)]
    assert set(scorer.asked) == {True, False}


def test_verdicts_follow_the_shift_of_the_kind_of_part(records: list[Record]) -> None:
    scorer: Any = Scorer(lambda record, question: 0.6)
    chosen = sorted({each.category for each in records})[0]
    shifts = {True: ScoreShifts({chosen: -1.0}, 0.5), False: ScoreShifts()}
    found = right_verdicts(scorer, records, {True: 0.5, False: 0.7}, shifts, lambda done: None)
    for record in records:
        called = record.reference_image is not None and record.category != chosen
        assert found[record.image_id] == [float(called == record.anomalous)]
    assert any(each.category != chosen for each in records)


def test_each_question_counts_by_the_likelier_of_yes_and_no(records: list[Record]) -> None:
    def truth(record: Record, question: Any) -> float:
        asked = next(each for each in records if each.record_id == record.record_id)
        answers = next(each for each in asked.questions if each.text == question.text).answers
        return 0.9 if parse_verdict(answers[0].text) else 0.1

    right: Any = Scorer(truth)
    wrong: Any = Scorer(lambda record, question: 1.0 - truth(record, question))
    found, against = (right_questions(each, records, lambda done: None) for each in (right, wrong))
    assert len(found) == len({each.image_id for each in records})
    assert all(value == 1.0 for each in found.values() for value in each) and all(len(e) == 5 for e in found.values())
    assert all(value == 0.0 for each in against.values() for value in each)
