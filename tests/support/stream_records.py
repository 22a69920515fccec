"""Records of random words and pixels, and streams of them."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig, TrainConfig, VitConfig
from sage_jax.data.records import Answer, Question, Record
from sage_jax.data.stream.pipeline import (
    StreamOptions,
    make_train_loader,
)
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat

TEXT = TextConfig(vocab_size=320, max_facts=2, max_fact_tokens=48, max_answer_tokens=48, buckets=(256, 1024, 2048))


MODEL = ModelConfig(vit=VitConfig(tile_px=32, patch_px=8), downsample=2)


def encoded(rng: np.random.Generator, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_record(index: int, rng: np.random.Generator, *, num_questions: int = 5) -> Record:
    words = ["cap", "scratch", "left", "bottle", "dent", "upper right"]
    parts = [" ".join(rng.choice(words, size=int(rng.integers(1, 4)))) for _ in range(12)]
    answers = tuple(Answer(f"{'Yes' if rng.random() < 0.5 else 'No'}. The {parts[k]}.", 5.0 - k) for k in range(3))
    return Record(
        record_id=f"r{index}",
        image_id=f"i{index}",
        test_image=encoded(rng, 32, 32),
        reference_image=encoded(rng, 32, 32),
        category="bottle",
        pair_type="standard comparison",
        facts=tuple(parts[4 : 4 + int(rng.integers(0, 3))]),
        questions=tuple(Question(f"Is there a {parts[6 + q]}?", answers) for q in range(num_questions)),
        descriptions=(Question("What is shown?", (Answer(f"A {parts[11]}."),)),),
        anomalous=bool(rng.random() < 0.5),
        defects=(),
        mask=None,
        test_path=f"{index}.png",
        reference_path=f"{index}_good.png",
    )


def train_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"batch_size": 4, "questions_per_image": 2, "reference_drop_rate": 0.5, **changes})


def loader(records: Sequence[Record], chat: Chat, train: TrainConfig | None = None, **changes: Any):
    form = TreeFormat(chat, MODEL, changes.pop("text", TEXT))
    options = StreamOptions(**{"seed": 3, "prefetch": 2, **changes})
    return make_train_loader(records, form, train or train_config(), options)


def take(stream: Any, count: int) -> list[TreeBatch]:
    batches = list(itertools.islice(stream, count))
    if hasattr(stream, "close"):
        stream.close()
    return batches


def assert_same(first: TreeBatch, second: TreeBatch) -> None:
    for field in dataclasses.fields(TreeBatch):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)
