"""Rows of training batches: dropped references, drawn questions, groups of about one length, room."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import (
    make_eval_batches,
)
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from tests.data.stream.test_pipeline import GROUPED
from tests.support.stream_records import MODEL, TEXT, loader, make_record, take, train_config


def test_reference_is_dropped_at_its_rate(records: list[Record], chat: Chat) -> None:
    for rate, low, high in [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.3, 0.55, 0.85)]:
        batches = take(loader(records, chat, train_config(batch_size=20, reference_drop_rate=rate)), 10)
        shown = np.concatenate([batch.reference_tile_mask.any(axis=1) for batch in batches])
        assert low <= shown.mean() <= high
        assert not np.concatenate([batch.reference_tiles for batch in batches])[~shown].any()


def test_a_group_has_its_rows_sorted_by_length_in_batches_of_random_order(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat, **GROUPED), 33)
    plain = take(loader(records, chat), 33)  # the same rows, three batches at a time
    for at in range(0, 33, 3):
        drawn = [sorted(np.concatenate([b.record_index for b in some[at : at + 3]])) for some in (batches, plain)]
        assert drawn[0] == drawn[1]
    lengths = np.stack([tree_lengths(batch) for batch in batches]).reshape(11, 3, 4)
    sorted_groups = 0
    for group in lengths:
        by_length = group[np.lexsort((group[:, -1], group[:, 0]))]
        assert (np.diff(by_length.reshape(-1)) >= 0).all()
        sorted_groups += bool((np.diff(group.reshape(-1)) >= 0).all())
    assert sorted_groups < 11
    ungrouped = np.stack([tree_lengths(batch) for batch in plain])
    assert np.ptp(lengths, axis=2).mean() < np.ptp(ungrouped, axis=1).mean() / 2


def tree_lengths(batch: TreeBatch) -> np.ndarray:
    """Tokens of each row's tree, the places of missing facts counted."""
    written = np.arange(1, batch.token_mask.shape[1] + 1)
    return np.where(batch.token_mask, written, 0).max(axis=1)


def test_questions_are_drawn_anew_and_all_of_them_in_time(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat, train_config(batch_size=20)), 10)
    asked = np.concatenate([batch.question_ids for batch in batches])
    assert asked.shape == (200, 2)
    assert (asked[:, 0] < asked[:, 1]).all()
    np.testing.assert_allclose(np.bincount(asked.reshape(-1), minlength=5) / 400, 0.2, atol=0.06)
    every = take(loader(records, chat, train_config(questions_per_image=0)), 1)[0]
    np.testing.assert_array_equal(every.question_ids, np.tile(np.arange(5), (4, 1)))


def test_batches_that_can_show_no_reference_have_no_room_for_any(records: list[Record], chat: Chat) -> None:
    def room(stream: Any) -> int:
        (batch,) = take(stream, 1)
        assert batch.reference_tiles.shape == (4, batch.reference_tile_mask.shape[1], 32, 32, 3)
        return batch.reference_tile_mask.shape[1]

    some = [dataclasses.replace(each, reference_image=None) if at else each for at, each in enumerate(records)]
    none = [dataclasses.replace(each, reference_image=None) for each in records]
    for rate, given, expected in [(0.0, some, 1), (0.9, some, 1), (1.0, records, 0), (0.0, none, 0)]:
        assert room(loader(given, chat, train_config(reference_drop_rate=rate))) == expected
    form, use = TreeFormat(chat, MODEL, TEXT), TreeUse("none")
    for with_reference, given, expected in [(True, records, 1), (True, some, 1), (False, records, 0), (True, none, 0)]:
        assert room(make_eval_batches(given, form, use, batch_size=4, with_reference=with_reference)) == expected


def test_records_with_fewer_questions_leave_slots_empty(chat: Chat) -> None:
    rng = np.random.default_rng(0)
    mixed = [make_record(0, rng, num_questions=1), make_record(1, rng, num_questions=3)]
    form = TreeFormat(chat, MODEL, TEXT)
    (batch,) = make_eval_batches(mixed, form, TreeUse("ranked"), batch_size=2, with_reference=True)
    assert batch.question_ids.tolist() == [[0, -1, -1], [0, 1, 2]]
    assert batch.answer_mask.any(axis=2).tolist() == [[True, False, False], [True, True, True]]
