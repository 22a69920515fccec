"""The rubric judge: every row of its tables, and how it reads terms, places, denials and verdicts."""

from __future__ import annotations

import random

import pytest

from sage_jax.metrics.mle import MleScore, judge, read

TERMS = ("scratch", "hole", "pin-hole", "missing piece", "print fault", "dent")
SYNONYMS = {"scrape": "scratch", "chip": "missing piece"}
PLACES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")

SCRATCH = "Yes. There is a scratch at the upper left."
GOOD = "No. It matches the good part."
SOUND = "Yes. It matches the good part."
NOT_A_DENT = "No. The defect is a scratch at the top, not a dent."


def marks(answer: str, reference: str) -> MleScore:
    return judge(answer, reference, defect_terms=TERMS, places=PLACES, synonyms=SYNONYMS)


@pytest.mark.parametrize(
    ("answer", "reference", "mark"),
    [
        ("Yes. A scratch at the bottom.", SCRATCH, 5),
        (GOOD.replace("It matches", "The washer is intact, unlike none, and matches"), GOOD, 5),
        ("Yes. A scratch and a dent.", SCRATCH, 4),
        ("No.", GOOD, 4),
        ("Yes. There is a defect at the upper left.", SCRATCH, 3),
        ("Yes.", SCRATCH, 3),
        ("No. It has a flaw that does no harm.", GOOD, 3),
        ("Yes. There is a dent at the upper left.", SCRATCH, 2),
        ("No. There is only a dent.", GOOD, 2),
        ("No. There is a scratch at the upper left.", SCRATCH, 1),
        ("Yes. It matches the good part.", GOOD, 1),
    ],
)
def test_accuracy_follows_verdict_and_defect(answer: str, reference: str, mark: float):
    assert marks(answer, reference).accuracy == mark


@pytest.mark.parametrize(
    ("answer", "reference", "mark"),
    [
        ("Yes. There is a dent at the upper left.", SCRATCH, 5),
        ("Yes. There is a scratch at the top.", SCRATCH, 4),
        ("Yes. There is a scratch at the left.", SCRATCH, 4),
        ("Yes. There is a scratch at the centre.", SCRATCH, 2),
        ("Yes. There is a scratch at the upper right.", SCRATCH, 2),
        ("Yes. There is a scratch at the bottom.", SCRATCH, 1),
        ("Yes. There is a scratch at the lower right.", SCRATCH, 1),
        ("Yes. There is a scratch at the upper left and at the top.", SCRATCH, (5 + 4 + 5) / 3),
        ("No. The upper left looks normal.", SCRATCH, 1),
        ("Yes. There is a scratch.", SCRATCH, 3),
        ("No. It matches the good part.", SCRATCH, 3),
        ("No. I see no defect.", GOOD, 5),
        ("Yes.", GOOD, 3),
        ("No. The top looks normal.", GOOD, 3),
        ("No. There is only a dent at the top.", GOOD, 1),
        ("Yes. There is a dent at the top.", GOOD, 1),
    ],
)
def test_localization_follows_the_distance_on_the_grid(answer: str, reference: str, mark: float):
    assert marks(answer, reference).localization == pytest.approx(mark)


@pytest.mark.parametrize(
    ("answer", "reference", "mark"),
    [
        ("Yes. A dent.", SCRATCH, 2),
        ("Yes. A dent at the bottom.", SCRATCH, 2),
        ("Yes. A dent at the upper left.", SCRATCH, 5),
        ("Yes. A scratch at the bottom.", SCRATCH, 5),
        ("Yes. A scratch and a dent at the bottom.", SCRATCH, 5),
        ("Yes. It differs from the good part.", SCRATCH, 5),
        ("Yes.", SCRATCH, 3),
        ("No. I am sure.", GOOD, 3),
        ("Yes. There is no defect.", SCRATCH, 2),
        ("No. There is a scratch.", GOOD, 2),
        ("Yes. There is a scratch.", SOUND, 2),
        ("No. There is no defect.", SCRATCH, 2),
        ("Yes. There is a dent at the top.", NOT_A_DENT, 2),
        ("No. There is a scratch at the upper left.", SCRATCH, 1),
        ("Yes. It matches the good part.", GOOD, 1),
    ],
)
def test_logic_follows_the_agreement_of_verdict_and_reason(answer: str, reference: str, mark: float):
    assert marks(answer, reference).logic == mark


@pytest.mark.parametrize(
    "reason",
    [
        "The part is good. scratch upper left",
        "The part is good, scratch upper left.",
        "There is a scratch at the upper left. It matches the good part.",
        "There is a scratch at the upper left. There is no defect.",
        "There is a scratch at the upper left and it is intact.",
    ],
)
def test_a_reason_that_calls_the_part_good_and_defective_contradicts_itself(reason: str):
    assert marks(f"Yes. {reason}", SCRATCH) == MleScore(3.0, 1.0, 2.0)
    assert marks(f"No. {reason}", SCRATCH) == MleScore(1.0, 1.0, 1.0)
    assert marks(f"Yes. {reason}", SCRATCH).average < marks("Yes.", SCRATCH).average
    assert marks(f"Yes. {reason}", f"Yes. {reason}") == MleScore(5.0, 5.0, 5.0)


@pytest.mark.parametrize(
    "reason",
    [
        "There is a scratch at the upper left. The rest is good.",
        "It is otherwise intact. A scratch is at the upper left.",
        "It looks fine, but there is a scratch at the upper left.",
        "A fine scratch at the upper left, unlike the good part.",
        "The defect is a scratch at the upper left, not a flaw of the print.",
        "It matches the good part except for a scratch at the upper left.",
        "There is a scratch at the upper left. There is no other defect.",
    ],
)
def test_a_limited_remark_takes_nothing_back(reason: str):
    assert marks(f"Yes. {reason}", SCRATCH) == MleScore(5.0, 5.0, 5.0)


@pytest.mark.parametrize("answer", ["", "  ", "...", "A scratch at the upper left.", "Maybe. A scratch.", "Yesterday."])
def test_an_answer_without_a_verdict_gets_one(answer: str):
    assert marks(answer, SCRATCH) == MleScore(1.0, 1.0, 1.0)
    assert marks(answer, SCRATCH).average == 1.0


def test_a_reference_without_a_verdict_is_refused():
    with pytest.raises(ValueError, match="must begin with yes"):
        marks(SCRATCH, "A scratch.")


@pytest.mark.parametrize("reference", [SCRATCH, GOOD, SOUND, NOT_A_DENT, "True. Chips at the left and the right."])
def test_the_reference_itself_gets_five(reference: str):
    assert marks(reference, reference) == MleScore(5.0, 5.0, 5.0)
    assert marks(reference.upper(), reference).average == 5.0


@pytest.mark.parametrize(
    ("answer", "verdict", "state", "terms", "places"),
    [
        ("True, a pin-hole at the upper left", True, "defective", {"pin-hole"}, {"upper left"}),
        ("yes: pin holes, upper-left and left", True, "defective", {"pin-hole"}, {"upper left", "left"}),
        ("No. Two scratches on the right.", False, "defective", {"scratch"}, {"right"}),
        ("Yes. A scrape and chips.", True, "defective", {"scratch", "missing piece"}, set()),
        ("Yes. The holey hat is scratched.", True, "", set(), set()),
        ("No. A print fault.", False, "defective", {"print fault"}, set()),
        (NOT_A_DENT, False, "defective", {"scratch"}, {"top"}),
        ("No. There is no dent but a hole at the bottom.", False, "defective", {"hole"}, {"bottom"}),
        ("No. It is free of scratches.", False, "", set(), set()),
        ("No. It is free of defects.", False, "good", set(), set()),
        ("No. Nothing is wrong.", False, "good", set(), set()),
        ("No. Nothing stands out.", False, "good", set(), set()),
        ("Yes. It does not match the good part.", True, "defective", set(), set()),
        ("Yes. Unlike the good part, it is damaged.", True, "defective", set(), set()),
        ("Yes. It is a good part.", True, "good", set(), set()),
        ("Yes. The top is not at all like the good part.", True, "", set(), {"top"}),
        ("No", False, "", set(), set()),
    ],
)
def test_what_an_answer_says_is_read(answer: str, verdict: bool, state: str, terms: set[str], places: set[str]):
    found = read(answer, defect_terms=TERMS, places=PLACES, synonyms=SYNONYMS)
    assert (found.verdict, found.state, found.terms, found.places) == (verdict, state, terms, places)


def test_the_longest_name_wins_in_any_order():
    for terms in (("cut", "cut lead"), ("cut lead", "cut")):
        assert read("Yes. A cut lead.", defect_terms=terms, places=PLACES).terms == {"cut lead"}
        assert read("Yes. A lead is cut.", defect_terms=terms, places=PLACES).terms == {"cut"}


def test_places_off_the_grid_are_right_or_wrong_only():
    def location(answer: str) -> float:
        return judge(answer, "Yes. A dent on the rim.", defect_terms=TERMS, places=("rim", "hub")).localization

    assert location("Yes. A dent on the rim.") == 5.0
    assert location("Yes. A dent on the hub.") == 2.0


def test_without_terms_and_places_only_verdict_and_state_count():
    score = judge("Yes. It is damaged.", "Yes. There is a defect.", defect_terms=(), places=())
    assert score.average == 5.0


def test_marks_stay_between_one_and_five_and_never_depend_on_case_or_order_of_names():
    rng = random.Random(0)
    words = ["no", "not", "a", *TERMS, *PLACES, "defect", "matches", "good", "but", ".", ",", "and", "normal", "fine"]
    for _ in range(400):
        answer = f"{rng.choice(('Yes', 'No', 'Well'))}. " + " ".join(rng.choices(words, k=rng.randrange(9)))
        score = marks(answer, SCRATCH)
        for mark in (score.accuracy, score.localization, score.logic, score.average):
            assert 1.0 <= mark <= 5.0
        assert marks(answer.upper(), SCRATCH) == score
        shuffled = judge(answer, SCRATCH, defect_terms=TERMS[::-1], places=PLACES, synonyms=SYNONYMS)
        assert shuffled == score
