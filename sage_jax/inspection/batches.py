"""Images in batches through the model: read ahead of the devices, answered one batch at a time."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import feature_form, tiles_per_image
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.features.cached import CachedFeatures
from sage_jax.inspection.images import InputImage
from sage_jax.inspection.questions import ImageAnswers, answer_images, asked_record
from sage_jax.models.sage import compute_dtype

_REFERENCES_AT_ONCE: Final = 4
"""References that the ViT runs on together, where there may be several."""

Item = TypeVar("Item")
Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """Images that were read together.

    Attributes:
      inputs: The images, in order, unreadable ones too.
      trees: Positions of readable images, their records and their batch: one batch with references, one without.
    """

    inputs: Sequence[InputImage]
    trees: Sequence[tuple[Sequence[int], Sequence[Record], TreeBatch]]

    def num_tokens(self, position: int) -> int:
        """Tokens of an image's tree, its questions included; 0 for an unreadable one."""
        rows = [batch.token_mask[here.index(position)] for here, _, batch in self.trees if position in here]
        return sum(int(np.sum(row)) for row in rows)


def read_batch(inputs: Sequence[InputImage], evaluator: Evaluator, rows: int) -> ImageBatch:
    """The trees of some images; `rows` fixes the size of their batches, so that few images compile nothing anew."""
    trees = []
    for one_shot in (True, False):
        chosen = [
            (position, asked_record(image.record, evaluator, image.questions))
            for position, image in enumerate(inputs)
            if image.record and (image.record.reference_image is not None) is one_shot
        ]
        if chosen:
            positions, records = zip(*chosen, strict=True)
            (batch,) = evaluator.batches(records, with_reference=one_shot, answers="none", rows=rows)
            trees.append((positions, records, batch))
    return ImageBatch(inputs, trees)


def answer_batch(
    batch: ImageBatch, evaluator: Evaluator, references: CachedFeatures | None
) -> list[ImageAnswers | None]:
    """The model's answers about every image of a batch, in order; None for unreadable ones.

    Args:
      references: Cache of the references' ViT features; None = they are computed with each batch.
    """
    found: list[ImageAnswers | None] = [None] * len(batch.inputs)
    for positions, records, trees in batch.trees:
        trees = trees if references is None else references.put_into(trees)
        for row, answers in enumerate(answer_images(trees, records, evaluator)):
            found[positions[row]] = answers
    return found


def cached_references(evaluator: Evaluator, *, one_for_all: bool) -> CachedFeatures | None:
    """The cache of references' ViT features; None where `inspect.reference_memory_mb` is 0 or each is registered anew.

    Args:
      one_for_all: Whether a single reference serves all images, so that the ViT runs on one at a time.
    """
    responder, model = evaluator.responder, evaluator.config.model
    megabytes = evaluator.config.inspect.reference_memory_mb
    if not megabytes or evaluator.config.data.register != "none":
        return None
    return CachedFeatures(
        responder.vit_features,
        form=feature_form(model, np.dtype(compute_dtype(model))),
        tiles_at_once=responder.rows(1 if one_for_all else _REFERENCES_AT_ONCE) * tiles_per_image(model),
        capacity=megabytes * 10**6,
        images=("reference_tiles",),
    )


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read]) -> Generator[Read]:
    """Each item read, in order, the next one in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-images") as pool:
        ahead: deque[Future[Read]] = deque()
        for item in items:
            ahead.append(pool.submit(read, item))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
