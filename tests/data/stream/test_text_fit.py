"""Records whose text fits no shape are told before anything trains."""

from __future__ import annotations

import dataclasses

import numpy as np

from sage_jax.config import DataConfig, TextConfig
from sage_jax.data.records import Answer, Fault, Question
from sage_jax.data.stream.text_fit import measure_text
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat, TreeUse, encode_text
from sage_jax.data.trees.shapes import TreeShape
from tests.support.stream_records import MODEL, TEXT, make_record

DATA = DataConfig(source="folder", root="parts")


def test_what_fits_is_measured_and_what_does_not_is_named_with_its_option(chat: Chat) -> None:
    rng = np.random.default_rng(0)
    good = make_record(0, rng)
    long = dataclasses.replace(
        make_record(1, rng), questions=(Question("Is it?", (Answer("Yes. " + "scratch " * 90),)),)
    )
    use = TreeUse("ranked")
    shape, fault = measure_text([good, long], TreeFormat(chat, MODEL, TEXT), use, DATA)
    assert isinstance(shape, TreeShape)
    tokens = encode_text(good, TreeFormat(chat, MODEL, TEXT), use, with_reference=True)
    assert shape.length >= len(tokens.prefix_ids) + sum(question.length for question in tokens.questions)
    assert isinstance(fault, Fault) and fault.file == "parts/1.png"
    assert "raise text.max_answer_tokens" in fault.cure and "has " in fault.problem


def test_the_longest_draw_of_questions_counts(chat: Chat) -> None:
    record = make_record(2, np.random.default_rng(2))
    form = TreeFormat(chat, MODEL, TEXT)
    lengths = []
    for number in (1, 2, 0):
        (shape,) = measure_text([record], form, TreeUse("ranked", questions_per_image=number), DATA)
        assert isinstance(shape, TreeShape)
        lengths.append(shape.length)
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_tree_beyond_the_largest_bucket_is_a_fault(chat: Chat) -> None:
    small: TextConfig = dataclasses.replace(TEXT, buckets=(64,))
    (fault,) = measure_text(
        [make_record(3, np.random.default_rng(3))], TreeFormat(chat, MODEL, small), TreeUse("ranked"), DATA
    )
    assert isinstance(fault, Fault) and "text.buckets" in f"{fault.problem} {fault.cure}"
