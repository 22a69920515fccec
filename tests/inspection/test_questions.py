"""What a model says of images to inspect: together or in turn, with given facts or its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sage_jax.config import InspectConfig
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.questions import ImageAnswers, asked_record
from tests.support.asked import inspected, random_evaluator
from tests.support.tiny_export import record

FURTHER = ("Where is the scratch?", "Is the seal whole?")
RECORDS = [record(number, num_facts=number % 3) for number in range(3)]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """A model of random weights, whose answers differ from question to question."""
    return random_evaluator(tmp_path_factory.mktemp("asked") / "run")


_ASKED: dict[str, list[ImageAnswers]] = {}


def answers(evaluator: Evaluator, **options: Any) -> list[ImageAnswers]:
    """What is said of the records; the same is asked once."""
    if repr(options) not in _ASKED:
        _ASKED[repr(options)] = inspected(evaluator, RECORDS, **options)
    return _ASKED[repr(options)]


def test_the_inspection_question_comes_first_and_further_ones_stand_beside_it(evaluator: Evaluator) -> None:
    together = dataclasses.replace(
        evaluator, config=dataclasses.replace(evaluator.config, inspect=InspectConfig(questions=FURTHER))
    )
    asked = [question.text for question in asked_record(RECORDS[0], together).questions]
    assert asked == [INSPECTION_QUESTION, *FURTHER]
    in_turn = dataclasses.replace(
        evaluator, config=dataclasses.replace(evaluator.config, inspect=InspectConfig(questions=FURTHER, ask="in_turn"))
    )
    assert [question.text for question in asked_record(RECORDS[0], in_turn).questions] == [INSPECTION_QUESTION]


def test_each_image_is_answered_as_by_itself(evaluator: Evaluator) -> None:
    found = answers(evaluator, questions=FURTHER)
    assert [each.record.record_id for each in found] == ["0", "1", "2"]  # the padding row is no image
    for each in found:
        assert [question for question, _ in each.follow_ups] == list(FURTHER)
        assert 0.0 <= each.verdict_score <= 1.0 and each.num_tokens >= 3
    alone = answers(evaluator)
    for one, other in zip(alone, found, strict=True):
        assert one.follow_ups == () and one.reason == other.reason
        assert one.verdict_score == pytest.approx(other.verdict_score, abs=1e-5)
        np.testing.assert_allclose(one.similarity, other.similarity, atol=1e-5)


def test_in_turn_the_first_answer_stays_and_later_ones_know_it(evaluator: Evaluator) -> None:
    together, in_turn = (answers(evaluator, questions=FURTHER, ask=ask) for ask in ("together", "in_turn"))
    for one, other in zip(together, in_turn, strict=True):
        assert one.reason == other.reason and one.verdict_score == pytest.approx(other.verdict_score, abs=1e-5)
        assert [question for question, _ in other.follow_ups] == list(FURTHER)
    assert any(one.follow_ups != other.follow_ups for one, other in zip(together, in_turn, strict=True))


def test_facts_of_the_model_take_the_place_of_those_that_are_given(evaluator: Evaluator) -> None:
    given, own = answers(evaluator), answers(evaluator, facts="model", fact_tokens=12)
    for one, other in zip(given, own, strict=True):
        np.testing.assert_allclose(one.similarity, other.similarity, atol=1e-5)  # what is seen does not depend on them
        assert other.record.facts and other.record.facts != one.record.facts  # the row shows what was written
    scores = [(one.verdict_score, other.verdict_score) for one, other in zip(given, own, strict=True)]
    assert any(abs(one - other) > 1e-6 for one, other in scores)
