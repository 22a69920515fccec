"""Records as token ids and tiles by their index, remembered between epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage_jax.data.records import Record
from sage_jax.data.stream.vit_features import StoredFeatures
from sage_jax.data.trees.encode import (
    RecordPixels,
    RecordTokens,
    TreeFormat,
    TreeUse,
    decode_pixels,
    encode_text,
)
from sage_jax.data.trees.labels import decode_labels
from sage_jax.process.recently_used import RecentlyUsed


class RecordParts:
    """Token ids and tiles of records by index, remembered between epochs.

    Attributes:
      records: The data set.
      form, use: The trees that they are parts of.
      features: ViT features of the records' images, in place of their pixels; None = pixels.
    """

    def __init__(
        self,
        records: Sequence[Record],
        form: TreeFormat,
        use: TreeUse,
        *,
        cache_bytes: int,
        features: StoredFeatures | None = None,
    ) -> None:
        self.records, self.form, self.use, self.features = records, form, use, features
        self._tokens = RecentlyUsed(cache_bytes // 4)
        self._pixels = RecentlyUsed(cache_bytes - cache_bytes // 4)

    def tokens(self, index: int, with_reference: bool) -> RecordTokens:
        in_prompt = with_reference and self.form.text.reference == "prompt"
        return self._tokens.get(
            (index, in_prompt),
            lambda: encode_text(self.records[index], self.form, self.use, with_reference=in_prompt),
        )

    def pixels(self, index: int) -> RecordPixels:
        if self.features is None:
            return self._pixels.get(index, lambda: decode_pixels(self.records[index], model=self.form.model))
        # The mapped file is a memory of its own: what is remembered here is the labels.
        known = self._pixels.get(index, lambda: self._labels(self.records[index]))
        test, *references = self.features.of(index)
        return RecordPixels(test, tuple(references), known.labels)

    def _labels(self, record: Record) -> RecordPixels:
        return RecordPixels(np.zeros((0, 0, 0, 3), np.uint8), (), decode_labels(record, model=self.form.model))
