"""An answer that contradicts its verdict is said anew, and no other."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from sage_jax.data.adpl.facts import DefectWords, Vocabulary
from sage_jax.data.adpl.wording import INSPECTION_OPENINGS
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.generation.sampling import Sampling
from sage_jax.inspection.agreement import agreeing
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.metrics.mle import read
from tests.support.asked import inspected, random_evaluator
from tests.support.tiny_export import record

ALWAYS_GOOD = 2.0
"""A threshold that no score reaches: all answers open with no."""
NEGATIVE = ("no", "false")
FURTHER = "Is the seal whole?"
RECORDS = [record(number, num_facts=2) for number in range(3)]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """A model of random weights, whose words differ from image to image, under a threshold."""
    found = random_evaluator(tmp_path_factory.mktemp("agree") / "run")
    sampling = Sampling(temperature=1.5)  # greedy, random weights say one token over and over
    responder = found.responder.decoding_with(verdict_threshold=ALWAYS_GOOD, sampling=sampling, max_new_tokens=24)
    return dataclasses.replace(found, responder=responder)


def with_defect(evaluator: Evaluator, *names: str) -> Evaluator:
    """The model, read by a vocabulary to which these words are defects."""
    some = next(iter(evaluator.vocabulary.defects.values()))
    defects: dict[str, DefectWords] = {
        name: dataclasses.replace(some, name=name, term=name, synonyms=(), generic=False) for name in names
    }
    return dataclasses.replace(evaluator, vocabulary=Vocabulary({}, defects, evaluator.vocabulary.default))


def words_of_one(said: list[ImageAnswers]) -> tuple[int, str]:
    """An image, and a word that is in the answer about it alone."""
    words = [re.findall(r"[a-z]{3,}", re.sub(r"^\W*(no|false)", "", each.reason.lower())) for each in said]
    for row, own in enumerate(words):
        others = {word for other, each in enumerate(words) if other != row for word in each}
        if alone := [word for word in own if word not in others]:
            return row, alone[0]
    raise AssertionError(f"no answer has a word of its own: {words}")


@pytest.mark.parametrize("facts", ["data", "model"])
@pytest.mark.parametrize("how", ["together", "in_turn"])
def test_an_answer_that_contradicts_its_verdict_is_said_anew(evaluator: Evaluator, how: str, facts: str) -> None:
    options: dict[str, Any] = {"questions": (FURTHER,), "ask": how, "facts": facts, "fact_tokens": 8}
    said = inspected(with_defect(evaluator, "no such word"), RECORDS, **options)
    assert all(each.reason.lower().startswith(NEGATIVE) for each in said), [each.reason for each in said]
    row, word = words_of_one(said)
    found = inspected(with_defect(evaluator, word), RECORDS, **options)
    for index, (before, after) in enumerate(zip(said, found, strict=True)):
        if index == row:
            assert after.reason.startswith(INSPECTION_OPENINGS[False])
            assert not re.search(rf"\b{word}\b", after.reason.lower())
        else:
            assert after.reason == before.reason and after.follow_ups == before.follow_ups
        assert after.verdict_score == before.verdict_score


def openings_given(evaluator: Evaluator, answer: str) -> list[str]:
    """What answers are begun with, one after the other, of a model that contradicts its verdict by saying this."""
    ids = evaluator.chat.answer_ids(answer)
    said, given = np.asarray([[ids]], np.int32), list[str]()

    def stubborn(begun: np.ndarray) -> np.ndarray:
        given.append(evaluator.chat.decode([each for each in begun[0, 0] if each >= 0]))
        return said

    assert agreeing(stubborn, said, RECORDS[:1], with_defect(evaluator, "crack")).tolist() == said.tolist()
    return given


@pytest.mark.parametrize(
    ("answer", "openings"),
    [
        ("No. There is a crack.", INSPECTION_OPENINGS[False]),
        ("Yes. It is intact.", INSPECTION_OPENINGS[True]),
        ("No. It is intact.", ()),
        ("Yes. It has a crack.", ()),
    ],
)
def test_each_opening_of_the_verdict_is_tried_once(
    evaluator: Evaluator, answer: str, openings: tuple[str, ...]
) -> None:
    assert openings_given(evaluator, answer) == list(openings)


@pytest.mark.parametrize("verdict", [True, False])
def test_the_last_opening_says_by_itself_what_the_verdict_does(verdict: bool) -> None:
    said = read(f"{INSPECTION_OPENINGS[verdict][-1]}.", defect_terms=("crack",), places=("top",))
    assert said.verdict is verdict and said.state == ("defective" if verdict else "good")


def test_a_row_that_has_room_is_said_anew_beside_one_that_has_not(evaluator: Evaluator) -> None:
    ids = [evaluator.chat.answer_ids(each) for each in ("No. There is a crack.", "Yes. It is intact.")]
    said = np.full((2, 1, max(map(len, ids))), evaluator.chat.end_id, np.int32)
    for row, each in enumerate(ids):
        said[row, 0, : len(each)] = each
    lengths = {
        text: len(evaluator.chat.answer_ids(text)) - 1 for texts in INSPECTION_OPENINGS.values() for text in texts
    }
    room = min(lengths.values()) + 1
    short = dataclasses.replace(evaluator, responder=evaluator.responder.decoding_with(max_new_tokens=room))
    begun = list[np.ndarray]()

    def note(given: np.ndarray) -> np.ndarray:
        begun.append(given)
        return said

    agreeing(note, said, RECORDS[:2], with_defect(short, "crack"))
    assert begun and all(given.shape[2] == room - 1 for given in begun)
    assert any((given[0] >= 0).any() != (given[1] >= 0).any() for given in begun)


def test_answers_that_are_too_short_for_an_opening_stay(evaluator: Evaluator) -> None:
    short = dataclasses.replace(evaluator, responder=evaluator.responder.decoding_with(max_new_tokens=4))
    assert openings_given(short, "No. There is a crack.") == []


def test_a_model_that_opens_its_answers_itself_keeps_them(evaluator: Evaluator) -> None:
    own = dataclasses.replace(evaluator, responder=evaluator.responder.decoding_with(verdict_threshold=None))
    assert openings_given(own, "No. There is a crack.") == []
