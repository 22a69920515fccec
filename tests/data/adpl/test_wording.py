"""Scores of claims, and sentences that say what was claimed, as a reader of words finds them."""

from __future__ import annotations

import itertools
import random

import pytest

from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.adpl.wording import (
    PLACES,
    SUBJECT,
    Claim,
    Topic,
    describe,
    list_findings,
    score_of,
    steps_apart,
    word_claim,
)
from sage_jax.metrics.mle import read
from sage_jax.verdict import parse_verdict

VOCABULARY = load_vocabulary("")
SCRATCH, DENT = VOCABULARY.defect_of("scratch"), VOCABULARY.defect_of("dent")
NAMES = {"defect_terms": ("scratch", "dent"), "places": PLACES}
OPEN = Topic("Is there a defect in this part?", abnormal_yes=True)


def test_steps_are_a_metric_on_the_grid() -> None:
    for a, b, c in itertools.product(PLACES, repeat=3):
        assert steps_apart(a, b) == steps_apart(b, a) and (steps_apart(a, b) == 0) == (a == b)
        assert steps_apart(a, c) <= steps_apart(a, b) + steps_apart(b, c)
    assert steps_apart("upper left", "lower right") == 4


@pytest.mark.parametrize(
    ("claim", "score"),
    [
        (Claim(True, "defective", ((SCRATCH, "top"),)), 5.0),
        (Claim(True, "defective", ((SCRATCH, "upper left"),)), 4.5),
        (Claim(True, "defective", ((SCRATCH, ""),)), 4.0),
        (Claim(True, "defective", ((None, "top"),)), 4.0),
        (Claim(True, "defective", ((DENT, "top"),)), 3.25),
        (Claim(True, "defective", ((DENT, "bottom"),)), 2.0),
        (Claim(True, "defective", ((DENT, "lower left"),)), 1.5),
        (Claim(True, ""), 3.0),
        (Claim(False, ""), 1.5),
        (Claim(False, "good"), 1.25),
    ],
)
def test_what_is_true_adds_and_what_is_false_takes_away(claim: Claim, score: float) -> None:
    assert score_of(claim, Claim(True, "defective", ((SCRATCH, "top"),))) == pytest.approx(score)


def test_no_claim_scores_above_the_best_or_outside_one_to_five() -> None:
    findings = [(words, place) for words in (SCRATCH, DENT, None) for place in ("", *PLACES)]
    claims = [Claim(verdict, "defective", (finding,)) for verdict in (True, False) for finding in findings]
    claims += [Claim(verdict, state) for verdict in (True, False) for state in ("good", "")]
    for best in (claims[1], Claim(False, "good"), Claim(True, "defective", ((SCRATCH, "top"), (DENT, "left")))):
        scores = [score_of(claim, best) for claim in claims]
        assert score_of(best, best) == 5.0 and 1.0 <= min(scores) and max(scores) <= 5.0
        right = [score_of(claim, best) for claim in claims if claim.verdict == best.verdict]
        wrong = [score_of(claim, best) for claim in claims if claim.verdict != best.verdict]
        assert max(wrong) <= min(right)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(6))
def test_a_reader_finds_verdict_kind_and_place_in_the_sentence(place: str, seed: int) -> None:
    """The reading is that of the rubric judge, which shares no code with the wording."""
    claim = Claim(True, "defective", ((SCRATCH, place),))
    said = word_claim(claim, OPEN, SUBJECT, random.Random(seed))
    found = read(said, **NAMES)
    assert parse_verdict(said) is True
    assert found.terms == {"scratch"} and found.places == {place} and found.state == "defective"
    good = word_claim(Claim(False, "good"), OPEN, SUBJECT, random.Random(seed))
    assert parse_verdict(good) is False and read(good, **NAMES).state == "good" and not read(good, **NAMES).terms


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_that_says_nothing_names_nothing(seed: int) -> None:
    asked = Topic("Is there a dent on this part?", abnormal_yes=True, asked=DENT)
    for verdict in (True, False):
        said = word_claim(Claim(verdict, ""), asked, SUBJECT, random.Random(seed))
        found = read(said, **NAMES)
        assert parse_verdict(said) is verdict and not found.terms and not found.places


def test_findings_are_one_phrase_and_equal_ones_are_said_once() -> None:
    rng = random.Random(0)
    assert list_findings([(SCRATCH, "top"), (DENT, "left")], rng) == "a scratch at the top and a dent at the left"
    assert list_findings([(SCRATCH, "top"), (SCRATCH, "top")], rng, definite=True) == "the scratch at the top"
    assert list_findings([(None, "")], rng) == ""
    assert describe("washer", "steel", [(SCRATCH, "")], rng) == "A washer made of steel with a scratch."
    assert describe("washer", "steel", [], rng) == "A washer made of steel without any mark."


@pytest.mark.parametrize(
    ("topic", "concerned"),
    [
        (OPEN, {"scratch", "dent"}),
        (Topic("Is there a dent?", True, asked=DENT), {"dent"}),
        (
            Topic("Will it fail?", True, risk=SCRATCH.risk),
            {"scratch"} | ({"dent"} if SCRATCH.risk == DENT.risk else set()),
        ),
    ],
)
def test_a_topic_concerns_the_defects_that_it_asks_about(topic: Topic, concerned: set[str]) -> None:
    assert {words.term for words in (SCRATCH, DENT) if topic.concerns(words)} == concerned
