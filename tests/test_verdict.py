"""The opening verdict is one and the same to reader, evaluator and rubric judge."""

from __future__ import annotations

import pytest

from sage_jax.data.records import Answer, Question, Record, validate
from sage_jax.metrics.mle import read
from sage_jax.metrics.verdicts import Prediction
from sage_jax.verdict import CHINESE_NO, CHINESE_YES, parse_verdict, split_verdict


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
    "wrap", ["{}", "**{}**", "{}。", "“{}”，", "- {}！有一个孔", "（{}）", "{} 有一个孔", "\n{}："]
)
@pytest.mark.parametrize("word", [*CHINESE_YES, *CHINESE_NO])
def test_chinese_verdicts_are_read_where_the_language_is_chinese(wrap: str, word: str):
    answer = wrap.format(word)
    assert parse_verdict(answer, "zh") is (word in CHINESE_YES)
    assert parse_verdict(answer) is None is parse_verdict(answer, "en")


@pytest.mark.parametrize(
    "answer", ["是否有缺陷？", "是否", "有没有缺陷？", "不同，", "对比两图，", "是不是？是。", "有无缺陷。"]
)
@pytest.mark.parametrize("wrap", ["{}", "**{}**", " {}"])
def test_a_chinese_word_that_begins_as_a_verdict_is_none(answer: str, wrap: str):
    assert parse_verdict(wrap.format(answer), "zh") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("是/否", None),
        ("是 或 否？是。", None),
        ("有、没有。", None),
        ("对还是错？", None),
        ("是的、有划痕。", True),
        ("否。是另一个零件。", False),
        ("没错，有裂纹。", True),
        ("没有，是完好的。", False),
        ("不会，能用。", False),
        ("缺陷：是。", None),
        ("", None),
        ("Yes，有划痕。", True),
        ("False. 没有。", False),
        ("对不起，看不清。", None),
        ("能看到划痕。", None),
        ("无缺陷。", None),
    ],
)
def test_chinese_readings(answer: str, expected: bool | None):
    assert parse_verdict(answer, "zh") is expected


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
    assert split_verdict("是的，有凹痕。", "zh") == (True, "，有凹痕。")
    assert split_verdict("是的，有凹痕。") == (None, "是的，有凹痕。")
