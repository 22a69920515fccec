"""Small in-memory records with ranked answers, and a chat template whose tokenizer was trained on them."""

from __future__ import annotations

import dataclasses

import numpy as np

from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Answer, Question, Record
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.tokenizer import train_tokenizer
from tests.support.tiny_sage import TINY

MODEL: ModelConfig = TINY
TEXT = TextConfig(
    vocab_size=300, max_facts=1, max_fact_tokens=16, max_answer_tokens=16, buckets=(128,), assist_prompt="Look."
)


def make_records(number: int) -> list[Record]:
    """Records of one or two questions with two or three ranked answers; every third without a reference."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(number):
        picture, reference = (encode_png(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(2))
        answers = tuple(Answer(f"{word}. {'cap ' * rank}", 5.0 - rank) for rank, word in enumerate(("Yes", "No", "No")))
        questions = (Question("Dent?", answers[: 2 + index % 2]), Question("Is it good?", answers[:2]))
        records.append(
            Record(
                record_id=f"r{index}",
                image_id=f"i{index}",
                test_image=picture,
                reference_image=None if index % 3 == 2 else reference,
                category="cap",
                pair_type="standard comparison",
                facts=("A cap.",) * (index % 2),
                questions=questions[: 1 + index % 2],
                descriptions=(),
                anomalous=True,
                defects=(),
                mask=None,
                test_path=f"{index}.png",
                reference_path="" if index % 3 == 2 else f"{index}_good.png",
            )
        )
    return records


def make_chat(text: TextConfig = TEXT) -> Chat:
    """The template with a tokenizer of bytes and little more."""
    return Chat(dataclasses.replace(text), train_tokenizer(["Yes. cap cap", "No. Dent? Is it good? Look."] * 3, 300))
