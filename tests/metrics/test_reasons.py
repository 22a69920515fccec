"""Marks of reasons: kind, place, both together, and what one and the same answer to all images would get."""

from __future__ import annotations

import itertools
import random

import pytest

from sage_jax.metrics.mle import Reading, read
from sage_jax.metrics.reasons import ReasonMarks, Truth, best_constant, contradicts, mark_reason

TERMS = ("scratch", "dent", "pin-hole", "open")
PLACES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")
IMAGE: tuple[Truth, ...] = (("scratch", "top"), ("dent", "lower left"), ("dent", "centre"))


def said(answer: str) -> Reading:
    return read(answer, defect_terms=TERMS, places=PLACES)


@pytest.mark.parametrize(
    ("answer", "kind", "place", "both"),
    [
        ("Yes. There is a scratch at the top.", True, True, True),
        ("Yes. There is a dent at the centre.", True, True, True),
        ("Yes. There is a scratch at the top and a dent at the lower left.", True, True, True),
        ("Yes. There is a scratch at the lower left and a dent at the top.", True, True, False),
        ("Yes. There is a scratch at the centre.", True, True, False),
        ("Yes. There is an open at the top.", False, True, False),
        ("Yes. There is a scratch at the top and an open at the centre.", False, True, False),
        ("Yes. There is a scratch at the bottom.", True, False, False),
        ("Yes. There is a scratch at the top and a dent at the left.", True, False, False),
        ("Yes. There is a scratch. It lies at the top.", True, True, True),
        ("Yes. There is a dent. It lies at the top.", True, True, False),
        ("Yes. There is a scratch.", True, False, False),
        ("Yes. Something is wrong at the top.", False, True, False),
        ("Yes. It is damaged.", False, False, False),
        ("No. It matches the good part.", False, False, False),
        ("Yes. There is no open, but a dent at the centre.", True, True, True),
        ("", False, False, False),
    ],
)
def test_a_reason_is_right_when_all_that_it_names_is(answer: str, kind: bool, place: bool, both: bool):
    assert mark_reason(said(answer), IMAGE) == ReasonMarks(kind, place, both)


def test_places_are_not_marked_where_none_is_known():
    marks = mark_reason(said("Yes. There is a scratch at the top."), (("scratch", ""),))
    assert marks == ReasonMarks(True, None, None)


def test_random_sentences_are_marked_as_they_were_built():
    """Against the rule written out over the pairs that each sentence was built of."""
    rng = random.Random(20)
    for _ in range(500):
        truths = [(rng.choice(TERMS), rng.choice(PLACES)) for _ in range(rng.randint(1, 3))]
        named = [(rng.choice(TERMS), rng.choice(PLACES)) for _ in range(rng.randint(1, 2))]
        answer = "Yes. There is " + " and ".join(f"a {kind} at the {cell}" for kind, cell in named) + "."
        marks = mark_reason(said(answer), truths)
        assert marks.kind == all(kind in {each for each, _ in truths} for kind, _ in named)
        assert marks.place == all(cell in {each for _, each in truths} for _, cell in named)
        every = all(any((kind, cell) == truth for truth in truths) for kind, cell in named)
        if len({kind for kind, _ in named}) == len(named):  # two places of one kind: one of them suffices for `both`
            assert marks.both == (every and marks.kind and marks.place)


def test_the_best_constant_is_the_best_of_all_constants():
    rng = random.Random(21)
    images = [[(rng.choice(TERMS), rng.choice(PLACES)) for _ in range(rng.randint(1, 3))] for _ in range(40)]
    constants = [said(f"Yes. There is a {kind} at the {cell}.") for kind, cell in itertools.product(TERMS, PLACES)]
    marks = [[mark_reason(each, truths) for truths in images] for each in constants]
    for name in ("kind", "place", "both"):
        best = max(sum(getattr(mark, name) for mark in row) / len(images) for row in marks)
        assert best_constant(images)[name] == pytest.approx(best)


def test_without_images_or_places_there_is_no_constant():
    assert best_constant([]) == {"kind": None, "place": None, "both": None}
    assert best_constant([[("dent", "")], [("open", "")]]) == {"kind": 0.5, "place": None, "both": None}


@pytest.mark.parametrize(
    ("answer", "abnormal_yes", "contradiction"),
    [
        ("Yes. There is a dent.", True, False),
        ("Yes. It matches the good part.", True, True),
        ("No. There is a dent.", True, True),
        ("No. There is a dent.", False, False),
        ("Yes. It is intact.", False, False),
        ("Yes. There is only a dent at the top.", False, True),
        ("Yes.", True, False),
        ("No. I am sure of it.", True, False),
        ("No. It is intact. There is a dent.", True, True),
        ("There is a dent.", True, False),
    ],
)
def test_words_contradict_the_verdict(answer: str, abnormal_yes: bool, contradiction: bool):
    assert contradicts(said(answer), abnormal_yes=abnormal_yes) is contradiction
