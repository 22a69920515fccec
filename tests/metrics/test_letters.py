"""The letter of an option, read from a written answer."""

from __future__ import annotations

import re

import pytest

from sage_jax.metrics.letters import official_letter, read_letter

OPTIONS = {"A": "Yes.", "B": "No.", "C": "A scratch at the top."}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b. ", None),
        ("C.", "C"),
        ("A. Yes.", "A"),
        ("(B) No", "B"),
        ("**C**", "C"),
        ("C) a scratch", "C"),
        ("B\nbecause all is whole", "B"),
        ("B - No", "B"),
        ("The answer is (C).", "C"),
        ("Answer: B", "B"),
        ("I choose option A here", "A"),
        ("the answer is B, not the answer A", None),
        ("A scratch is at the top.", None),
        ("A scratch at the top.", "C"),
        ("no", "B"),
        ("No defect.", None),
        ("D.", None),
        ("Answer: D", None),
        ("A or B", None),
        ("the answer is a scratch", None),
        ("", None),
    ],
)
def test_an_answer_names_the_letter_that_it_opens_with_or_that_follows_the_word(
    answer: str, letter: str | None
) -> None:
    assert read_letter(answer, OPTIONS) == letter


def test_two_options_of_one_text_are_not_told_apart() -> None:
    assert read_letter("Yes", {"A": "Yes", "B": "yes."}) is None


@pytest.mark.parametrize("answer", ["A or B", "D.", "None", "A scratch", "Answer: C, not DE", "", "F", "no E-mail"])
def test_the_official_reading_is_the_last_letter_that_stands_alone(answer: str) -> None:
    words = [word for word in re.split(r"\W+", answer) if word in ("A", "B", "C", "D", "E")]
    assert official_letter(answer) == (words[-1] if words else "")
