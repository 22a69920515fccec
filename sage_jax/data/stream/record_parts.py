"""Records as token ids and tiles by their index, remembered between epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.records import Record
from sage_jax.data.stream.vit_features import StoredFeatures
from sage_jax.data.trees.chat import Chat, FactsAs
from sage_jax.data.trees.encode import (
    AnswersKept,
    QuestionKind,
    RecordPixels,
    RecordTokens,
    count_image_tokens,
    count_reference_tokens,
    decode_labels,
    decode_pixels,
    encode_text,
)
from sage_jax.process.recently_used import RecentlyUsed


class RecordParts:
    """Token ids and tiles of records by index, remembered between epochs."""

    def __init__(
        self,
        records: Sequence[Record],
        *,
        chat: Chat,
        model: ModelConfig,
        text: TextConfig,
        answers: AnswersKept,
        questions: QuestionKind,
        facts_as: FactsAs,
        cache_bytes: int,
        features: StoredFeatures | None = None,
    ) -> None:
        """`features`: Of the records' images, which come in place of their pixels."""
        self.features = features
        self.records, self.chat, self.model, self.text = records, chat, model, text
        self._answers: AnswersKept = answers
        self._questions: QuestionKind = questions
        self._facts_as: FactsAs = facts_as
        self._tokens = RecentlyUsed(cache_bytes // 4)
        self._pixels = RecentlyUsed(cache_bytes - cache_bytes // 4)

    def tokens(self, index: int, with_reference: bool) -> RecordTokens:
        in_prompt = with_reference and self.text.reference == "prompt"
        return self._tokens.get((index, in_prompt), lambda: self._encode(self.records[index], in_prompt))

    def pixels(self, index: int) -> RecordPixels:
        if self.features is None:
            return self._pixels.get(index, lambda: decode_pixels(self.records[index], model=self.model))
        # The mapped file is a memory of its own: what is remembered here is the labels.
        known = self._pixels.get(index, lambda: self._labels(self.records[index]))
        test, reference = self.features.of(index)
        return RecordPixels(test, reference, known.token_labels)

    def _labels(self, record: Record) -> RecordPixels:
        return RecordPixels(np.zeros((0, 0, 0, 3), np.uint8), None, decode_labels(record, model=self.model))

    def _encode(self, record: Record, reference_in_prompt: bool) -> RecordTokens:
        return encode_text(
            record,
            num_image_tokens=count_image_tokens(record, model=self.model),
            chat=self.chat,
            text=self.text,
            answers=self._answers,
            questions=self._questions,
            facts_as=self._facts_as,
            num_reference_tokens=count_reference_tokens(record, model=self.model) if reference_in_prompt else 0,
        )
