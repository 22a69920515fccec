"""What a reader of the question alone gets."""

from __future__ import annotations

import dataclasses

from sage_jax.data.question_verdicts import QuestionVerdicts, TextOnly, text_only_by_kind
from sage_jax.data.records import Answer, Question, Record

RECORD = Record("r", "i", b"", None, "part", "standard comparison", (), (), (), None, (), None, "", "")


def asked(*rows: tuple[str, str]) -> Record:
    return dataclasses.replace(RECORD, questions=tuple(Question(text, (Answer(best),)) for text, best in rows))


def test_the_reader_knows_each_texts_majority_and_else_that_of_all():
    known = QuestionVerdicts()
    cut = (("Is it cut?", answer) for answer in ("Yes. There.", "True.", "No."))
    known.add(asked(*cut, ("Is it bent?", "No.")))
    known.add(asked(("Is it bent?", "False. It is straight."), ("Is it bent?", "Yes."), ("Is it?", "Perhaps.")))
    assert known.counts == {"Is it cut?": [1, 2], "Is it bent?": [2, 1]}
    assert known.majority("Is it cut?") and not known.majority("Is it bent?")
    assert known.sums == [3, 3] and not known.majority("Is it new?")


def test_accuracy_and_chance_are_counted_by_kind():
    known = QuestionVerdicts({"cut?": [0, 9], "bent?": [9, 0]})
    rows = [("a", "cut?", True), ("a", "cut?", False), ("a", "bent?", False), ("b", "bent?", True), ("b", "new?", True)]
    found = text_only_by_kind(known, rows)
    assert found == {"a": TextOnly(2 / 3, 2 / 3, 3), "b": TextOnly(0.0, 1.0, 2)}


def test_nothing_known_answers_no():
    assert not QuestionVerdicts().majority("Is it cut?")
    assert text_only_by_kind(QuestionVerdicts(), []) == {}
