"""What each image token shows: how much of it is anomalous, and which of the record's defects lies there."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from sage_jax.axes import Float, Int
from sage_jax.config import ModelConfig
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Record
from sage_jax.data.trees.tiles import (
    TiledImage,
    blank_tiles,
    box_cover,
    image_size,
    token_labels,
    tokens_per_side,
)

NAME_TOKENS: Final = 8
"""Tokens of a defect's name that image tokens are taught (`TreeBatch.token_names`); a longer name is cut."""

LEAST_SHARE: Final = 0.1
"""Share of an image token that is anomalous, or that a box covers, from which on the token shows the defect."""


@dataclasses.dataclass(frozen=True)
class TokenLabels:
    """Labels of an image's tokens.

    Attributes:
      anomalous: Share of anomalous pixels, 0..1; None where the record does not tell.
      defects: Which of the record's defects, in their order, each token shows; -1 for none.
    """

    anomalous: Float[np.ndarray, " M"] | None
    defects: Int[np.ndarray, " M"]

    @property
    def nbytes(self) -> int:
        return self.defects.nbytes + (0 if self.anomalous is None else self.anomalous.nbytes) + 256


def label_tokens(record: Record, tiled: TiledImage, width: int, height: int, *, model: ModelConfig) -> TokenLabels:
    """The labels of a record whose test image has been cut so.

    A token shows the defect whose box covers most of it, if a tenth of it is anomalous; without a mask, if the box
    covers a tenth.

    Args:
      width, height: Of the test image, px.
    """
    side = tokens_per_side(model)
    anomalous = None
    if record.mask is not None:
        anomalous = token_labels(decode_mask(record.mask), tiled, tokens_per_side=side)
    elif record.anomalous is False:
        anomalous = np.zeros(len(tiled.tiles) * side**2, np.float32)
    if not record.defects:
        return TokenLabels(anomalous, np.full(len(tiled.tiles) * side**2, -1, np.int32))
    covers = np.stack([box_cover(one.box, width, height, tiled, tokens_per_side=side) for one in record.defects])
    most = covers.max(axis=0)
    shown = (most >= LEAST_SHARE) if anomalous is None else (most > 0.0) & (anomalous >= LEAST_SHARE)
    return TokenLabels(anomalous, np.where(shown, covers.argmax(axis=0), -1).astype(np.int32))


def decode_labels(record: Record, *, model: ModelConfig) -> TokenLabels:
    """A record's token labels alone; of its test image the header is read.

    Raises:
      ImageFault: The header cannot be read.
    """
    width, height = image_size(record.test_image, name=record.test_path)
    return label_tokens(record, blank_tiles(width, height, model=model), width, height, model=model)
