"""Records and their tokenizer, for the tests of streams."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.data.records import Record
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.tokenizer import train_tokenizer
from tests.support.stream_records import TEXT, make_record


@pytest.fixture(scope="module")
def records() -> list[Record]:
    rng = np.random.default_rng(7)
    return [make_record(index, rng) for index in range(11)]


@pytest.fixture(scope="module")
def chat(records: list[Record]) -> Chat:
    texts = [answer.text for record in records for question in record.questions for answer in question.answers]
    return Chat(TEXT, train_tokenizer(texts, TEXT.vocab_size))
