"""Models of random weights that are asked about images to inspect."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_jax.config import InspectConfig
from sage_jax.data.records import Record
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.questions import ImageAnswers, answer_images, asked_record
from tests.support.tiny_export import TRAINED_HERE, make_run


def random_evaluator(run_dir: Path) -> Evaluator:
    """A model whose answers differ from question to question, with room for any."""
    text = dataclasses.replace(TRAINED_HERE.text, buckets=())
    run = make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(run_dir), text=text))
    return run.evaluator("sfe", run.weights.answering("sfe", wanted_by="test"))


def inspected(evaluator: Evaluator, records: Sequence[Record], **options: Any) -> list[ImageAnswers]:
    """What a model says of records, each with its reference, under options of `inspect`."""
    config = dataclasses.replace(evaluator.config, inspect=InspectConfig(**options))
    asking = dataclasses.replace(evaluator, config=config)
    asked = [asked_record(each, asking) for each in records]
    (batch,) = asking.batches(asked, with_reference=True, answers="none", rows=8)
    return list(answer_images(batch, asked, asking))
