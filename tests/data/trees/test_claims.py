"""Tokens that carry an answer's claim."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.data.trees.claims import claim_spans, name_pattern, overlapping

NAMES = name_pattern(("left", "upper left", "pin-hole", "spurious copper", "short", "open"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Yes. There is a pin-hole at the upper left.", ["Yes", "a pin-hole", "upper left"]),
        ("No. There are pin holes and Spurious  coppers.", ["No", "pin holes"]),
        ("No. Shorts at the left, shortly.", ["No", "Shorts", "left"]),
        ("There is a short.", ["a short"]),
        ("Yes. It is an open at the left, not a bar.", ["Yes", "an open", "left"]),
        ("Yes.", ["Yes"]),
        ("", []),
    ],
)
def test_verdict_and_whole_names_are_found(answer: str, words: list[str]):
    assert [answer[start:end].strip() for start, end in claim_spans(answer, NAMES)] == words


def test_without_names_the_verdict_alone_is_a_claim():
    assert name_pattern(("", " ")) is None
    assert claim_spans("Yes. A short.", None) == [(0, 3)]


def test_a_token_that_shares_a_character_is_marked():
    offsets = [(0, 3), (3, 4), (4, 7), (7, 9), (9, 9)]
    found = overlapping(offsets, [(0, 3), (6, 8)])
    np.testing.assert_array_equal(found, [True, False, True, True, False])
