"""Corrections as ranked answers: the person's first, the model's own wrong one last."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.groups import box_of_cell, corrected_images, group_records, unknown_kinds
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION, PLACES, cell_of
from sage_jax.data.images import encode_png
from sage_jax.data.records import NOWHERE, Box, Question, Record, validate
from sage_jax.metrics.mle import read
from sage_jax.verdict import parse_verdict
from tests.support.corrected import finding

VOCABULARY = load_vocabulary()


def picture(number: int) -> bytes:
    return encode_png(np.full((60, 90, 3), number, np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path)


def records_of(store: CorrectionStore, model: dict[str, Any], said: dict[str, Any], **more: Any) -> list[Record]:
    """The records of one corrected inspection."""
    number = store.add_inspection(finding(**{"image": picture(1), "references": (picture(2),), **model}))
    store.correct(number, "Ada", **said)
    return group_records(corrected_images(store, VOCABULARY), VOCABULARY, seed=0, **more)


def asked(records: list[Record]) -> Question:
    (question,) = [each for each in records[0].questions if each.text == INSPECTION_QUESTION]
    return question


OVER_REJECTED = {"verdict": "defective", "score": 0.9, "reason": "Yes. There is a dent at the top."}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, {"kind": "scratch", "cell": "left"}),
        ({}, {"kind": "scratch", "box": Box(0, 20, 20, 40)}),
        ({}, {}),
        ({}, {"kind": "scratch"}),
        ({}, {"cell": "top"}),
        (OVER_REJECTED, {}),
        (OVER_REJECTED, {"right": True}),
        (OVER_REJECTED, {"verdict": "defective", "kind": "scratch"}),
        (OVER_REJECTED, {"verdict": "defective", "kind": "corrosion pit", "sentence": "a pit of corrosion"}),
        (OVER_REJECTED | {"verdict": "unsure"}, {"verdict": "good"}),
        ({"verdict": "unsure"}, {"verdict": "good"}),
        ({"reason": ""}, {"right": True}),
        ({"reason": "the answer of a model that babbles"}, {"kind": "dent"}),
    ],
)
def test_every_correction_makes_records_in_the_form_of_adpl(
    store: CorrectionStore, model: dict[str, Any], said: dict[str, Any]
) -> None:
    records = records_of(store, model, said)
    for record in records:
        assert validate(record, num_questions=5, num_answers=4) == []
        for question in record.questions:
            scores = [answer.score for answer in question.answers]
            assert all(a is not None and b is not None and a >= b for a, b in itertools.pairwise(scores))
    true = said.get("verdict") or (model.get("verdict", "good") if said.get("right") else None)
    true = true or ("good" if model.get("verdict") == "defective" else "defective")
    assert {record.anomalous for record in records} == {true == "defective"}
    assert parse_verdict(asked(records).answers[0].text) == (true == "defective")


def test_the_person_speaks_first_and_the_models_own_wrong_answer_is_last(store: CorrectionStore) -> None:
    answers = asked(records_of(store, {}, {"kind": "scratch", "cell": "left"})).answers
    said = read(answers[0].text, defect_terms=VOCABULARY.defect_terms, places=PLACES)
    assert (said.verdict, said.terms, said.places) == (True, {"scratch"}, {"left"})
    assert answers[-1].text == "No. The part matches the good part." and answers[-1].score == 1.0
    assert [parse_verdict(answer.text) for answer in answers] == [True, True, True, False]


def test_a_good_part_that_was_rejected_is_called_good_and_the_finding_last(store: CorrectionStore) -> None:
    records = records_of(store, OVER_REJECTED, {})
    answers = asked(records).answers
    assert parse_verdict(answers[0].text) is False and answers[-1].text == OVER_REJECTED["reason"]
    assert {record.pair_type for record in records} == {
        "standard comparison",
        "defect identification",
        "defect diagnosis",
    }


def test_a_right_answer_comes_first_and_nothing_of_the_model_last(store: CorrectionStore) -> None:
    records = records_of(store, OVER_REJECTED, {"right": True})
    answers = asked(records).answers
    assert answers[0].text == OVER_REJECTED["reason"] and parse_verdict(answers[-1].text) is False
    (defect,) = records[0].defects
    assert defect.type == "dent" and cell_of(defect.box, 90, 60) == "top"


def test_a_right_verdict_with_another_kind_is_still_the_last(store: CorrectionStore) -> None:
    answers = asked(records_of(store, OVER_REJECTED, {"verdict": "defective", "kind": "scratch"})).answers
    assert "scratch" in answers[0].text and answers[-1].text == OVER_REJECTED["reason"]
    assert answers[-1].score is not None and answers[-2].score is not None
    assert 1.0 <= answers[-1].score < answers[-2].score


def test_an_answer_that_only_says_less_is_not_called_wrong(store: CorrectionStore) -> None:
    vague = OVER_REJECTED | {"reason": "Yes. There is a defect."}
    answers = asked(records_of(store, vague, {"verdict": "defective", "kind": "scratch"})).answers
    assert vague["reason"] not in [answer.text for answer in answers[3:]]


def test_the_persons_own_words_follow_unless_they_are_too_long(store: CorrectionStore, tmp_path: Path) -> None:
    said = {"kind": "dent", "sentence": "hit by the gripper"}
    assert asked(records_of(store, {}, said)).answers[0].text.endswith(" hit by the gripper.")
    other = CorrectionStore(tmp_path / "other")
    short = asked(records_of(other, {}, said, fits=lambda text: "gripper" not in text)).answers[0].text
    assert "gripper" not in short and "dent" in short


def test_kinds_that_the_vocabulary_does_not_list_are_named_and_learnt(store: CorrectionStore) -> None:
    records = records_of(store, {}, {"kind": "corrosion pit", "cell": "top"})
    assert "corrosion pit" in asked(records).answers[0].text
    assert unknown_kinds(corrected_images(store, VOCABULARY), VOCABULARY) == ["corrosion pit"]
    number = store.add_inspection(finding(image=picture(3)))
    store.correct(number, "Ada", kind="Etching  Fault")
    listed = store.add_inspection(finding(image=picture(4)))
    store.correct(listed, "Ada", kind="scratch")
    assert unknown_kinds(corrected_images(store, VOCABULARY), VOCABULARY) == ["corrosion pit", "etching fault"]


def test_of_an_image_corrected_twice_the_last_counts_and_an_undone_one_not(store: CorrectionStore) -> None:
    shown = finding(image=picture(1), references=(picture(2),))
    first, second = store.add_inspection(shown), store.add_inspection(shown)
    store.correct(first, "Ada", kind="dent")
    store.correct(second, "Ada", right=True)
    (found,) = corrected_images(store, VOCABULARY)
    assert found.entry.id == second and found.image.defects == ()
    store.undo(second, "Ada")
    (found,) = corrected_images(store, VOCABULARY)
    assert found.entry.id == first and found.image.defects[0].box == NOWHERE
    store.undo(first, "Ada")
    assert corrected_images(store, VOCABULARY) == []


@pytest.mark.parametrize("size", [(9, 9), (10, 7), (640, 480), (3, 3), (4, 100)])
def test_the_box_of_a_cell_has_its_middle_in_the_cell(size: tuple[int, int]) -> None:
    for place in PLACES:
        box = box_of_cell(place, *size)
        assert 0 <= box.left < box.right <= size[0] and 0 <= box.top < box.bottom <= size[1]
        assert cell_of(box, *size) == place
    with pytest.raises(CorrectionFault, match="cell 'middle'"):
        box_of_cell("middle", *size)


def test_what_cannot_be_used_is_named(store: CorrectionStore) -> None:
    outside = store.add_inspection(finding(image=picture(1)))
    store.correct(outside, "Ada", box=Box(0, 0, 91, 60))
    with pytest.raises(CorrectionFault, match=f"inspection {outside}: box .* outside its image of 90 x 60 px"):
        corrected_images(store, VOCABULARY)
    store.undo(outside, "Ada")
    broken = store.add_inspection(finding(image=b"no image"))
    store.correct(broken, "Ada")
    with pytest.raises(CorrectionFault, match=f"inspection {broken}: its image part.png cannot be read"):
        corrected_images(store, VOCABULARY)
    store.undo(broken, "Ada")
    chinese = store.add_inspection(finding(image=picture(1), language="zh"))
    store.correct(chinese, "Ada")
    with pytest.raises(CorrectionFault, match="English ones alone are learnt"):
        corrected_images(store, VOCABULARY)
