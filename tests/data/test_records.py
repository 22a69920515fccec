"""What a record is checked for, and how its faults are told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from sage_jax.data.records import NOWHERE, Answer, Box, Defect, Fault, Question, Record, Reference, validate
from tests.support.stream_records import make_record

ANSWERS = tuple(Answer(f"Yes. The {part}.", score) for part, score in (("cap", 5.0), ("lid", 4.0), ("cork", 1.0)))
RECORD = dataclasses.replace(
    make_record(0, np.random.default_rng(0)),
    questions=tuple(Question(f"Is there a {kind}?", ANSWERS) for kind in ("dent", "crack", "hole", "stain", "chip")),
)


def asked(*answers: tuple[str, float | None], text: str = "Is it good?") -> dict[str, Any]:
    return {"questions": (Question(text, tuple(Answer(*answer) for answer in answers)),)}


def test_a_whole_record_has_no_fault() -> None:
    assert validate(RECORD) == [] == validate(RECORD, num_questions=5, num_answers=3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"record_id": " "}, "record_id is empty"),
        ({"category": ""}, "category is empty"),
        ({"pair_type": "comparison"}, "pair_type 'comparison' is no kind"),
        ({"questions": ()}, "has 0 questions"),
        ({"facts": ("A cap.", " ")}, "a fact is empty"),
        (asked(("Yes.", 5.0), text=" "), "question 1 is empty"),
        (asked(), "question 1 has 0 answers"),
        (asked(("Yes.", 5.0), (" ", 1.0)), "question 1, answer 2 is empty"),
        (asked(("Yes, it is.", 5.0), ("yes,  it is.", 1.0)), "answers 1 and 2 are the same answer"),
        (asked(("Yes.", 2.0), ("No.", 4.0)), r"its scores rise against the rank \(2, 4\)"),
        (asked(("Yes.", 6.0)), "answer 1 has score 6.0"),
        (asked(("Perhaps.", 5.0)), "'Perhaps.' opens with no verdict"),
        ({"descriptions": (Question("What?", (Answer("A cap."), Answer("A lid."))),)}, "description 1 has 2 answers"),
    ],
)
def test_each_fault_is_told_with_a_cure(changes: dict[str, Any], problem: str) -> None:
    (fault,) = validate(dataclasses.replace(RECORD, **changes))
    assert fault.file == RECORD.test_path and fault.cure
    assert re.search(problem, fault.problem)


def test_a_source_may_do_without_verdicts() -> None:
    untold = dataclasses.replace(RECORD, **asked(("Perhaps.", 5.0), ("Hm.", 1.0)))
    assert len(validate(untold)) == 1 and validate(untold, verdicts=False) == []


def test_counts_are_asked_for_by_the_caller() -> None:
    assert [fault.problem for fault in validate(RECORD, num_questions=4)] == ["has 5 questions"]
    assert len(validate(RECORD, num_answers=4)) == 5


def test_a_fault_reads_as_place_problem_and_cure() -> None:
    assert str(Fault("a.json", 7, "is bad", "mend it")) == "a.json:7: is bad (mend it)"
    assert str(Fault("a.png", None, "is bad", "mend it")) == "a.png: is bad (mend it)"


def test_references_are_the_first_and_the_further_ones() -> None:
    more = Reference(b"more", "more.png")
    record: Record = dataclasses.replace(RECORD, further_references=(more,))
    assert record.references == (Reference(record.reference_image or b"", record.reference_path), more)
    assert dataclasses.replace(record, reference_image=None).references == ()


def test_a_defect_of_which_only_the_label_is_known_has_no_place() -> None:
    assert not Defect("dent", NOWHERE).placed and Defect("dent", Box(0, 0, 1, 1)).placed
