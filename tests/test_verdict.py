"""The opening verdict is one and the same to reader, evaluator and rubric judge."""

from __future__ import annotations

import pytest

from sage_jax.data.records import Answer, Question, Record, validate
from sage_jax.metrics.mle import read
from sage_jax.metrics.verdicts import Prediction
from sage_jax.verdict import parse_verdict, split_verdict


@pytest.mark.parametrize(
    "wrap", ["{}", "**{}**", "  {}.", '"{}",', "- {}!", "({})", "`{}`", "__{}__", "# {}\n", "\n{}:"]
)
@pytest.mark.parametrize("word", ["yes", "Yes", "YES", "true", "True", "no", "No", "FALSE", "false"])
def test_verdict_is_read_through_case_punctuation_and_markdown(wrap: str, word: str):
    expected = word.lower() in ("yes", "true")
    assert parse_verdict(wrap.format(word)) is expected
    assert parse_verdict(wrap.format(word) + " there is a hole at the top, no doubt, yes.") is expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "...",
        "Nothing is wrong.",
        "Not sure.",
        "None.",
        "Yesterday",
        "Falsely",
        "Truer",
        "nope",
        "The answer is yes",
    ]
    + ["Yes or no? Yes.", "true/false", "Yes / No", "There is no defect.", "1", "否"],
)
def test_answer_that_begins_with_no_verdict_has_none(answer: str):
    assert parse_verdict(answer) is None


@pytest.mark.parametrize(
    "answer", ["Yes or no? Yes.", "True/False: true", "_Yes_, a dent.", "**no**", "Yes.", "false", "Yesno", "[No] dent"]
)
def test_reader_evaluator_and_judge_find_the_same_verdict(answer: str):
    verdict = parse_verdict(answer)
    question = Question("Is it?", (Answer(answer),))
    record = Record("r", "i", b"", None, "nut", "defect diagnosis", (), (question,), (), None, (), None, "i.png", "")
    assert bool(validate(record)) is (verdict is None)
    assert read(answer, defect_terms=("dent",), places=()).verdict is verdict
    assert Prediction("r", "i", "", "", "", "", "Yes.", answer, truth=True).verdict is verdict


def test_the_reason_is_what_follows_the_verdict():
    assert split_verdict("**Yes**, a dent.") == (True, "**, a dent.")
    assert split_verdict("A dent.") == (None, "A dent.")
