"""Answers marked one by one, and the means made of the marks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import encode_png
from sage_jax.data.question_verdicts import QuestionVerdicts
from sage_jax.data.records import NOWHERE, Answer, Box, Defect, Question, Record
from sage_jax.evaluation.answers import MarkedAnswer, Marker, about_answers, answer_metrics, place_agreement
from tests.support.stream_records import make_record

VOCABULARY = load_vocabulary("")
OPEN = Question("Is there a defect in this part?", (Answer("Yes. There is a scratch at the top.", 5.0),))
GOOD = Question("Is there a defect in this part?", (Answer("No. It matches the good part.", 5.0),))
SIDE = 90


def record(
    *defects: tuple[str, Box], number: int = 0, kind: str = "standard comparison", masked: bool = True
) -> Record:
    blank = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
    found = tuple(Defect(name, box) for name, box in defects)
    return dataclasses.replace(
        make_record(number, np.random.default_rng(0)),
        test_image=blank,
        pair_type=kind,
        defects=found,
        anomalous=bool(found),
        mask=encode_png(np.zeros((SIDE, SIDE), np.bool_)) if masked else None,
        questions=(OPEN if found else GOOD,),
    )


TOP = ("scratch", Box(40, 5, 50, 15))
LEFT = ("dent", Box(2, 40, 12, 50))


def mark(one: Record, answer: str, question: Question | None = None) -> MarkedAnswer:
    return Marker(VOCABULARY, [one]).mark(one, question or one.questions[0], answer)


@pytest.mark.parametrize(
    ("answer", "kind", "place", "both"),
    [
        ("Yes. There is a scratch at the top.", True, True, True),
        ("Yes. There is a scratch at the left.", True, True, False),  # each is in the image, not together
        ("Yes. There is a dent at the left and a scratch at the top.", True, True, True),
        ("Yes. There is a stain at the top.", False, True, False),
        ("Yes. There is a scratch at the bottom.", True, False, False),
        ("No. It matches the good part.", False, False, False),
        ("", False, False, False),
    ],
)
def test_a_reason_is_right_if_what_it_names_is_there(answer: str, kind: bool, place: bool, both: bool) -> None:
    reason = mark(record(TOP, LEFT), answer).reason
    assert reason is not None and (reason.kind, bool(reason.place), bool(reason.both)) == (kind, place, both)


def test_only_open_questions_about_defects_of_known_kind_are_marked() -> None:
    asked = Question("Is there a scratch on this part?", (Answer("Yes. There is a scratch at the top.", 5.0),))
    assert not mark(record(TOP), "Yes.", asked).is_open and mark(record(TOP), "Yes.", asked).reason is None
    assert not mark(record(TOP, kind="defect diagnosis"), "Yes.").is_open
    assert mark(record(), "No. It matches the good part.").reason is None
    assert mark(record(("defect", TOP[1])), "Yes. There is a scratch.").reason is None


def test_without_a_mask_the_kind_alone_is_known() -> None:
    found = mark(record(("scratch", NOWHERE), masked=False), "Yes. There is a scratch at the bottom.")
    assert found.truths == (("scratch", ""),) and found.reason is not None
    assert found.reason.kind and found.reason.place is None


def test_an_answer_to_a_question_without_a_verdict_is_counted_and_in_no_metric() -> None:
    asked = Question("What is it?", (Answer("A cap with a scratch."), Answer("A dog.")))
    untold = mark(record(TOP), "Yes. There is a scratch.", asked)
    assert untold.prediction.truth is None and untold.mle is None and untold.contradicts is None
    assert untold.as_json()["mle"] is None
    told = mark(record(TOP, number=1), "Yes. There is a scratch at the top.")
    drawn = {"samples": 20, "seed": 0}
    both, alone = (answer_metrics(each, **drawn) for each in ([untold, told], [told]))
    for name in ("verdict_accuracy", "acc_g", "mle", "consistency", "mle_all_right_defective"):
        assert both[name] == alone[name], name
    about = about_answers([untold, told], QuestionVerdicts(), {}, **drawn)
    assert about["without_verdict"] == 1 and about["unparsable"] == 0
    assert about["text_only"]["standard comparison"].n == 1
    assert about_answers([untold], QuestionVerdicts(), {}, **drawn)["text_only"] == {}


@pytest.mark.parametrize(
    ("one", "answer", "contradicts"),
    [
        (record(TOP), "Yes. There is a scratch at the top.", False),
        (record(TOP), "Yes. It matches the good part.", True),
        (record(), "No. There is a scratch at the top.", True),
        (record(), "No. It matches the good part.", False),
    ],
)
def test_words_that_say_the_other_thing_contradict_the_verdict(one: Record, answer: str, contradicts: bool) -> None:
    assert mark(one, answer).contradicts is contradicts


def test_metrics_are_means_of_the_marks() -> None:
    said = {
        0: (record(TOP, number=0), "Yes. There is a scratch at the top."),
        1: (record(TOP, number=1), "Yes. There is a dent at the top."),
        2: (record(number=2), "No. It matches the good part."),
        3: (record(number=3), "No. There is a scratch at the top."),
    }
    marked = [mark(one, answer) for one, answer in said.values()]
    found = answer_metrics(marked, samples=20, seed=0)
    values = {name: metric.value for name, metric in found.items()}
    assert values["reason_kind"] == 0.5 and values["reason_place"] == 1.0 and values["reason_both"] == 0.5
    assert values["named_though_good"] == 0.5 and values["consistency"] == 0.75 and values["verdict_accuracy"] == 1.0
    assert values["mle"] == pytest.approx(np.mean([item.mle.average for item in marked if item.mle]))
    assert values["mle_all_right_defective"] == 0.5
    assert found["reason_kind"].n == 2 and found["named_though_good"].n == 2 and found["consistency"].n == 4
    about = about_answers(marked, QuestionVerdicts(), {}, samples=20, seed=0)
    assert about["unparsable"] == 0 and about["best_constant"]["both"] == 1.0  # one and the same defect
    assert about["accuracy_by_kind"].keys() == {"standard comparison"}


def test_kinds_are_told_apart_by_questions_that_name_one() -> None:
    kind = "defect identification"
    shown, lacking = (
        Question("Is there a scratch on this part?", (Answer(f"{said}. There is a {name} at the top.", 5.0),))
        for said, name in (("Yes", "scratch"), ("No", "dent"))
    )
    good = dataclasses.replace(record(kind=kind), questions=(lacking,))
    asked = [
        (good, "No.", lacking),
        (record(TOP, kind=kind), "Yes.", shown),
        (record(LEFT, kind=kind), "Yes.", lacking),
    ]
    opened = [(record(TOP, number=number), "No.", OPEN) for number in range(3, 9)]
    opened.append((record(number=9), "No.", Question(OPEN.text, GOOD.answers)))
    marked = [mark(*each) for each in asked + opened]
    found = answer_metrics(marked, samples=20, seed=0)["kinds_told_apart"]
    assert (found.value, found.n) == (0.5, 2), "open questions do not count"


def test_words_and_map_agree_where_every_place_named_is_a_region_of_the_map() -> None:
    """Whether the place is right does not count, nor good parts, answers without a place or maps without a region."""
    said = {
        0: (record(TOP, number=0), "Yes. There is a scratch at the top.", {"top", "left"}),  # agrees
        1: (record(TOP, number=1), "Yes. There is a scratch at the top.", {"left"}),  # right, but the map says other
        2: (record(LEFT, number=2), "Yes. There is a dent at the top and a dent on the left.", {"top"}),
        3: (record(TOP, number=3), "Yes. There is a scratch.", {"top"}),  # names none
        4: (record(TOP, number=4), "Yes. There is a scratch at the top.", set[str]()),  # a map without a region
        5: (record(number=5), "Yes. There is a scratch at the top.", {"top"}),  # good
        6: (record(LEFT, number=6), "Yes. There is a scratch at the top.", {"top"}),  # wrong, and of one mind
    }
    marked = [mark(one, answer) for one, answer, _ in said.values()]
    cells = {one.image_id: frozenset(regions) for one, _, regions in said.values()}
    found = place_agreement(marked, cells, samples=20, seed=0)
    assert (found.value, found.n) == (0.5, 4)
    constant = about_answers(marked, QuestionVerdicts(), cells, samples=20, seed=0)["best_constant"]
    assert constant["agreement"] == 4 / 5  # "top" to all: of five defective images with a region
    assert place_agreement(marked, {}, samples=20, seed=0).value is None


def test_a_prediction_has_the_record_and_what_was_said() -> None:
    found = mark(record(TOP, LEFT), "Yes.").prediction
    assert (found.label, found.truth, found.answer) == ("scratch, dent", True, "Yes.")
    assert mark(record(), "Yes.").prediction.label == "good"
    assert mark(record(TOP), "Yes.").as_json().keys() == {"mle", "reason"}


def test_chinese_answers_have_verdicts_and_no_marks_of_what_reads_english() -> None:
    """Even where a reason has English words that the rubric would find."""
    one = record(TOP)
    question = Question("这个零件是否有缺陷？", (Answer("是的，顶部有划痕 (scratch, top)。", 5.0),))
    marker = Marker(VOCABULARY, [one], "zh")
    said = ("是的，有 scratch at the top。", "没有。", "看不清。")
    marked = [marker.mark(one, question, answer) for answer in said]
    assert [(item.prediction.truth, item.prediction.verdict) for item in marked] == [
        (True, True), (True, False), (True, None)
    ]  # fmt: skip
    assert all(item.mle is None is item.reason and item.contradicts is None for item in marked)
    assert marked[0].as_json() == {"mle": None, "reason": None}
    metrics = answer_metrics(marked, samples=20, seed=0)
    assert metrics["verdict_accuracy"].value == pytest.approx(1 / 3)
    told = {name for name, metric in metrics.items() if metric.value is not None}
    assert told == {"verdict_accuracy", "acc_g"}
    about = about_answers(marked, QuestionVerdicts(), {}, samples=20, seed=0)
    assert about["unparsable"] == 1 and about["without_verdict"] == 0 and about["best_constant"]["both"] is None
