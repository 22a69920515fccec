"""What a reader of the question alone gets."""

from __future__ import annotations

import dataclasses
import random

import pytest

from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.adpl.preferences import make_records
from sage_jax.data.question_verdicts import READERS, QuestionVerdicts, TextOnly, text_only_by_kind
from sage_jax.data.records import PAIR_TYPES, Answer, Question, Record
from sage_jax.verdict import parse_verdict
from tests.support.annotated_images import annotated

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


@pytest.mark.parametrize("kind", PAIR_TYPES)
def test_a_reader_without_the_image_stays_at_chance_on_kinds_of_a_users_own(kind: str):
    """The vocabulary lists neither categories nor kinds; some kinds are frequent, some rare."""
    rng = random.Random(9)
    counts = {"fuel valve": {"gash": 60, "blot": 25, "warp": 15}, "left hinge": {"gash": 10, "sink mark": 90}}
    records = []
    for index in range(1200):
        category = ("fuel valve", "left hinge")[index // 2 % 2]
        names, weights = list(counts[category]), list(counts[category].values())
        image = annotated(index, rng, category, names)
        defects = tuple(
            dataclasses.replace(each, type=drawn)
            for each, drawn in zip(image.defects, rng.choices(names, weights, k=len(image.defects)), strict=True)
        )
        image = dataclasses.replace(image, defects=defects)
        records += make_records(
            image, load_vocabulary(""), pair_types=(kind,), records=1, index=index, seed=0, kinds=counts
        )
    for reads, text_of in READERS.items():
        known = QuestionVerdicts()
        for record in records[:600]:
            known.add(record, reads)
        asked = [
            (kind, text_of(record, each), bool(parse_verdict(each.answers[0].text)))
            for record in records[600:]
            for each in record.questions
        ]
        found = text_only_by_kind(known, asked)[kind]
        assert found.accuracy <= found.chance + 0.03, (reads, found)


def test_chinese_answers_and_the_length_of_chinese_questions_are_read():
    known = QuestionVerdicts()
    known.add(asked(("有划痕吗？", "有，在左边。"), ("有划痕吗？", "没有。"), ("有划痕吗？", "Yes.")), language="zh")
    assert known.counts == {"有划痕吗？": [1, 2]}
    english = QuestionVerdicts()
    english.add(asked(("有划痕吗？", "有，在左边。")))
    assert not english.counts
    length = READERS["length"]
    for text, number in (("Is it cut, here?", 4), (" 有 划痕吗？", 5), ("第2处 cut", 4), ("", 0)):
        assert length(RECORD, Question(text, ())) == str(number), text
