"""Contradictions among records: each told once with its count and first example, and none where all is well."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.doubts import Doubts
from sage_jax.data.images import encode_png
from sage_jax.data.records import Answer, Question, Record
from sage_jax.data.sources import readers
from tests.support.stream_records import make_record

MASK, EMPTY = (encode_png(np.full((32, 32), value)) for value in (True, False))


def record(number: int, **changes: Any) -> Record:
    made = make_record(number, np.random.default_rng(number))
    plain = {"anomalous": True, "mask": None, "defects": (), "questions": made.questions[:1], "further_references": ()}
    return dataclasses.replace(made, **{"test_path": f"{number}.png", **plain, **changes})


def told(train: list[Record], test: list[Record]) -> list[str]:
    doubts = Doubts()
    for each in train:
        doubts.add("train", each)
    for each in test:
        doubts.add("test", each)
    return list(doubts.sentences())


def asked(text: str, *answers: str, scores: tuple[float, ...] = ()) -> tuple[Question, ...]:
    given = scores or tuple(5.0 - rank for rank in range(len(answers)))
    return (Question(text, tuple(Answer(answer, score) for answer, score in zip(answers, given, strict=True))),)


def test_records_that_agree_give_no_doubt() -> None:
    assert told([record(number) for number in range(4)], [record(9)]) == []


FIRST = record(0)
CASES = {
    "training images as well": ([FIRST], [dataclasses.replace(FIRST, record_id="again", test_path="copy.png")]),
    "good in one record and defective": ([FIRST, dataclasses.replace(FIRST, anomalous=False)], []),
    "called good and have a mask that marks": ([record(1, anomalous=False, mask=MASK)], []),
    "called defective and have a mask that marks nothing": ([record(1, mask=EMPTY)], []),
    "compared with themselves": ([dataclasses.replace(FIRST, anomalous=False, reference_image=FIRST.test_image)], []),
    "reference that is called defective": ([FIRST, record(2, reference_image=FIRST.test_image)], []),
    "opposite verdict in another record": (
        [record(1, questions=asked("Is it whole?", verdict, "Perhaps.")) for verdict in ("Yes.", "No.")],
        [],
    ),
    "one and the same score": ([record(1, questions=asked("Is it whole?", "Yes.", "No.", scores=(3.0, 3.0)))], []),
}


@pytest.mark.parametrize("said", CASES)
def test_a_contradiction_is_told_with_its_first_example(said: str) -> None:
    train, test = CASES[said]
    (sentence,) = told(train, test)
    assert said in sentence and sentence.startswith("1 ")
    assert sentence.split("the first: ")[1].split(",")[0] in {each.test_path for each in (*train, *test)}


def test_records_of_one_image_count_once() -> None:
    again = [dataclasses.replace(FIRST, record_id=str(number)) for number in range(5)]
    (sentence,) = told([FIRST], again)
    assert sentence.startswith("1 test images")


def test_generated_data_have_none() -> None:
    data, doubts = DataConfig(num_train=12, num_test=6, image_px=32), Doubts()
    for split in ("train", "test"):
        for item in readers.read_records(data, split, 0):
            assert isinstance(item, Record)
            doubts.add(split, item)
    assert list(doubts.sentences()) == []
