"""Parts of records: text with and without the reference, lengths of rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from sage_jax.data.records import Record
from sage_jax.data.trees.chat import Chat
from tests.support.stream_records import MODEL, TEXT, loader, take, train_config


def test_bucket_is_the_smallest_that_holds_the_longest_row(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat, train_config(questions_per_image=1, batch_size=2)), 12)
    batches += take(loader(records, chat, train_config(questions_per_image=0, answers="ranked")), 6)
    lengths = [batch.token_ids.shape[1] for batch in batches]
    assert len(set(lengths)) > 1
    for batch, length in zip(batches, lengths, strict=True):
        used = int(np.flatnonzero(batch.token_mask.any(axis=0)).max()) + 1
        assert length == min(bucket for bucket in TEXT.buckets if bucket >= used)


def test_rows_that_lose_their_reference_lose_its_place_in_the_prompt(records: list[Record], chat: Chat) -> None:
    some = [dataclasses.replace(each, reference_image=None) if at % 4 == 0 else each for at, each in enumerate(records)]
    text, per_image = dataclasses.replace(TEXT, reference="prompt"), MODEL.tokens_per_tile
    for batch in take(loader(some, chat, text=text), 9):  # into the fourth epoch: what is remembered is met again
        shown = batch.reference_tile_mask.any(axis=1)
        assert (batch.token_ids == chat.image_id).sum(axis=1).tolist() == (per_image * (1 + shown)).tolist()
        one_shot = [row for row, index in enumerate(batch.record_index) if index % 4 == 0]
        assert not shown[one_shot].any()
    plain = take(loader(some, chat), 9)
    assert {bool(each) for batch in plain for each in batch.reference_tile_mask.any(axis=1)} == {True, False}
    assert {int(each) for batch in plain for each in (batch.token_ids == chat.image_id).sum(axis=1)} == {per_image}
