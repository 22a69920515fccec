"""Marks of a reply: three whole numbers from 1 to 5, and nothing else becomes a score."""

from __future__ import annotations

import json
import random

import pytest

from sage_jax.endpoint.asking import RefusedReply
from sage_jax.judging.marks import read_marks
from sage_jax.metrics.mle import MleScore

GOOD = '{"accuracy": 5, "localization": 1, "logic": 3}'


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here are the marks: {GOOD}. The place {{left}} is wrong.",
        f"<think>Perhaps {GOOD.replace('5', '2')}? No.</think>\n{GOOD}",
        f"It begins without a tag {{ </think> {GOOD}",
        f"{GOOD}\nAgain: {GOOD}",
        '{"logic": 3, "localization": 1, "accuracy": 5, "why": "the same crack"}',
        f'{{"marks": {GOOD}}}',
        f'{{"reasons": {{"place": "left"}}}} {GOOD}',
        f"{'x' * 100_000} {GOOD}",
    ],
)
def test_text_around_the_marks_is_passed_over(reply: str) -> None:
    assert read_marks(reply) == MleScore(5.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("", "no JSON object with marks"),
        ("accuracy: 5, localization: 1, logic: 3", "no JSON object"),
        ("[5, 1, 3]", "no JSON object"),
        ("null", "no JSON object"),
        (GOOD[:-1], "no JSON object"),
        (GOOD.replace("accuracy", "Accuracy").replace("logic", "Logic").replace("loc", "Loc"), "no JSON object"),
        ('{"accuracy": 5, "localization": 1}', "logic = 'null' is no whole number"),
        (GOOD.replace("5", "6"), "accuracy = '6' is no whole number from 1 to 5"),
        (GOOD.replace("5", "0"), "accuracy = '0'"),
        (GOOD.replace("5", "-5"), "accuracy = '-5'"),
        (GOOD.replace("5", "4.5"), "accuracy = '4.5'"),
        (GOOD.replace("5", "5.0"), "accuracy = '5.0'"),
        (GOOD.replace("5", '"5"'), "accuracy = "),
        (GOOD.replace("5", "true"), "accuracy = 'true'"),
        (GOOD.replace("5", "NaN"), "accuracy = 'NaN'"),
        (GOOD.replace("5", "1e400"), "accuracy = 'Infinity'"),
        ('{"accuracy": 5, "accuracy": 1, "localization": 1, "logic": 3}', "accuracy = "),
        (f"{GOOD} or {GOOD.replace('5', '4')}", "several judgements"),
        (f"<think>{GOOD}</think> I cannot tell.", "no JSON object"),
        ('{"a":' * 5000, "no JSON object"),
        ("{" * 20_000, "no JSON object"),
    ],
)
def test_everything_else_is_refused(reply: str, said: str) -> None:
    with pytest.raises(RefusedReply, match=said) as raised:
        read_marks(reply)
    assert len(str(raised.value)) < 300


def test_random_texts_give_their_marks_or_none() -> None:
    rng = random.Random(0)
    pieces = ["{", "}", '"accuracy"', '"logic"', '"localization"', ":", ",", "3", "9", "true", "[", "]", "x", GOOD]
    for _ in range(3000):
        text = " ".join(rng.choices(pieces, k=rng.randrange(12)))
        try:
            found = read_marks(text)
        except RefusedReply:
            continue
        assert all(mark in (1, 2, 3, 4, 5) for mark in vars(found).values())
        assert GOOD in text or {"accuracy", "logic", "localization"} <= set(json.loads(text))
