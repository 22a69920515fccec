"""The Grain stream: seeded, resumable, the same for any number of processes and workers."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import runpy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags

from sage_jax.batch import TreeBatch
from sage_jax.config import Config, TextConfig, from_config_dict
from sage_jax.data.records import Answer, Question, Record
from sage_jax.data.sources.readers import read_records
from sage_jax.data.stream.pipeline import (
    StreamError,
    StreamOptions,
    TrainLoader,
    make_eval_batches,
    make_train_loader,
    visited_records,
)
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from sage_jax.data.trees.shapes import needed_shape
from sage_jax.data.trees.tokenizer import train_tokenizer
from sage_jax.data.trees.tree import TreeError, build_tree
from tests.support.stream_records import MODEL, TEXT, assert_same, loader, take, train_config

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.py"


def test_same_seed_gives_the_same_stream_and_another_seed_another(records: list[Record], chat: Chat) -> None:
    first, second = take(loader(records, chat), 5), take(loader(records, chat, prefetch=0), 5)
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    orders = [[batch.record_index.tolist() for batch in take(loader(records, chat, seed=seed), 5)] for seed in (3, 4)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("group_batches", [0, 2])
def test_resumed_stream_continues_where_the_state_was_taken(
    records: list[Record], chat: Chat, batch_size: int, group_batches: int
) -> None:
    how: dict[str, Any] = {"train": train_config(batch_size=batch_size), "group_batches": group_batches}
    whole = take(loader(records, chat, **how), 7)
    stream = loader(records, chat, **how)
    take(stream, 3)
    state = stream.get_state()
    fresh = loader(records, chat, **how)
    next(fresh)
    fresh.set_state(state)
    for expected, found in zip(whole[3:], take(fresh, 4), strict=True):
        assert_same(expected, found)
    for expected, found in zip(whole[3:], take(stream, 4), strict=True):  # a closed stream goes on, too
        assert_same(expected, found)


def test_state_of_another_stream_is_refused(records: list[Record], chat: Chat) -> None:
    state = loader(records, chat, seed=4).get_state()
    with pytest.raises(StreamError, match=r"seed = 4.*3"):
        loader(records, chat).set_state(state)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_read_what_one_process_reads(records: list[Record], chat: Chat, process_count: int) -> None:
    # Buckets so fine that a process that looked at its own rows alone would choose another.
    text = dataclasses.replace(TEXT, buckets=tuple(range(50, 900, 5)))
    whole = take(loader(records, chat, text=text), 4)
    shares = [
        take(loader(records, chat, text=text, process_index=index, process_count=process_count), 4)
        for index in range(process_count)
    ]
    for step, expected in enumerate(whole):
        for field in dataclasses.fields(TreeBatch):
            if field.metadata.get("static"):
                assert {getattr(share[step], field.name) for share in shares} == {getattr(expected, field.name)}
                continue
            joined = np.concatenate([getattr(share[step], field.name) for share in shares])
            np.testing.assert_array_equal(getattr(expected, field.name), joined, err_msg=field.name)


def test_worker_processes_read_what_threads_read(records: list[Record], chat: Chat) -> None:
    flags.FLAGS.mark_as_parsed()
    whole = take(loader(records, chat), 6)
    stream = loader(records, chat, num_workers=2)
    stream.set_state({**stream.get_state(), "next_batch": 2})
    for expected, found in zip(whole[2:], take(stream, 4), strict=True):
        assert_same(expected, found)


def test_a_killed_worker_is_replaced_and_no_batch_lost(records: list[Record], chat: Chat) -> None:
    flags.FLAGS.mark_as_parsed()
    whole = take(loader(records, chat), 12)
    stream, before = loader(records, chat, num_workers=1), {*multiprocessing.active_children()}
    first = [next(stream), next(stream)]
    (worker,) = {*multiprocessing.active_children()} - before
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    for expected, found in zip(whole, [*first, *take(stream, 10)], strict=True):
        assert_same(expected, found)
    stream.close()


def test_workers_that_are_killed_again_and_again_are_told(
    records: list[Record], chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, started = loader(records, chat), list[int]()

    def killed(batch: int) -> Iterator[TreeBatch]:
        started.append(batch)
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")
        yield

    monkeypatch.setattr(stream, "_read_from", lambda batch: Killed(batch, killed))
    with pytest.raises(StreamError, match=r"worker processes were killed 3 times .* give fewer workers, or 0"):
        next(stream)
    assert started == [0, 0, 0]


@dataclasses.dataclass
class Killed:
    """A data set whose reading ends as Grain's does when its workers are killed."""

    batch: int
    read: Callable[[int], Iterator[TreeBatch]]

    def __iter__(self) -> Killed:
        return self

    def __next__(self) -> TreeBatch:
        return next(self.read(self.batch))

    def close(self) -> None:
        """Nothing is open."""


def test_every_epoch_reads_each_record_once_in_a_new_order(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat), 11)  # 44 rows: 4 epochs of 11
    epochs = np.concatenate([batch.record_index for batch in batches]).reshape(4, 11)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(11))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_records_and_modes_of_a_stage_are_known_before_it_runs(
    records: list[Record], chat: Chat, steps: int
) -> None:
    taken: tuple[set[int], set[int]] = (set(), set())
    for batch in take(loader(records, chat, train_config()), steps):
        for index, shown in zip(np.asarray(batch.record_index), np.asarray(batch.reference_tile_mask), strict=True):
            taken[int(shown[0])].add(int(index))
    visited = visited_records(len(records), train=train_config(steps=steps, warmup_steps=0), seed=3)
    assert visited == (sorted(taken[0]), sorted(taken[1]))
    assert all(taken) and (steps > 2 or len(taken[0]) < len(records))


GROUPED: dict[str, Any] = {"group_batches": 3}


def test_grouped_batches_depend_on_seed_and_number_alone(records: list[Record], chat: Chat) -> None:
    whole = take(loader(records, chat, **GROUPED), 8)
    for prefetch in (0, 5):
        for one, other in zip(whole, take(loader(records, chat, prefetch=prefetch, **GROUPED), 8), strict=True):
            assert_same(one, other)
    for start in (2, 4):  # inside a group, and behind the first of one
        stream = loader(records, chat, **GROUPED)
        take(stream, start)
        resumed = loader(records, chat, **GROUPED)
        resumed.set_state(stream.get_state())
        for one, other in zip(whole[start:], take(resumed, 8 - start), strict=True):
            assert_same(one, other)
    shares = [take(loader(records, chat, process_index=index, process_count=2, **GROUPED), 8) for index in range(2)]
    for step, expected in enumerate(whole):
        joined = np.concatenate([share[step].record_index for share in shares])
        np.testing.assert_array_equal(expected.record_index, joined)
        assert {share[step].token_ids.shape[1] for share in shares} == {expected.token_ids.shape[1]}


def test_worker_processes_read_the_same_grouped_batches(records: list[Record], chat: Chat) -> None:
    flags.FLAGS.mark_as_parsed()
    whole = take(loader(records, chat, **GROUPED), 6)
    stream = loader(records, chat, num_workers=2, **GROUPED)
    stream.set_state({**stream.get_state(), "next_batch": 1})
    for expected, found in zip(whole[1:], take(stream, 5), strict=True):
        assert_same(expected, found)


def test_a_saved_position_knows_its_grouping(records: list[Record], chat: Chat) -> None:
    state = loader(records, chat).get_state()
    del state["group_batches"]  # as before there was any
    loader(records, chat).set_state(state)
    with pytest.raises(StreamError, match="group_batches = 1, this one 3"):
        loader(records, chat, **GROUPED).set_state(state)


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_the_records_of_grouped_batches_are_known_before(records: list[Record], chat: Chat, steps: int) -> None:
    def taken(number: int) -> tuple[list[int], list[int]]:
        found: tuple[set[int], set[int]] = (set(), set())
        for batch in take(loader(records, chat, **GROUPED), number):
            for index, shown in zip(np.asarray(batch.record_index), np.asarray(batch.reference_tile_mask), strict=True):
                found[int(shown[0])].add(int(index))
        return sorted(found[0]), sorted(found[1])

    visited = visited_records(len(records), train=train_config(steps=steps, warmup_steps=0), seed=3, **GROUPED)
    assert visited == taken(-(-steps // 3) * 3)  # to the end of the group
    assert all(set(some) <= set(every) for some, every in zip(taken(steps), visited, strict=True))


def test_eval_reads_every_record_once_and_pads_the_last_batch(records: list[Record], chat: Chat) -> None:
    form, use = TreeFormat(chat, MODEL, TEXT), TreeUse("ranked")
    one_shot = list(make_eval_batches(records, form, use, batch_size=4, with_reference=True))
    zero_shot = list(make_eval_batches(records, form, use, batch_size=4, with_reference=False))
    assert np.concatenate([batch.record_index for batch in one_shot]).tolist() == [*range(11), -1]
    padding = one_shot[-1]
    for name in ("tile_mask", "token_mask", "target_mask", "answer_mask", "fact_mask"):
        assert not getattr(padding, name)[-1].any()
        assert getattr(padding, name)[0].any() or name == "fact_mask"
    assert all(batch.reference_tile_mask[batch.record_index >= 0, 0].all() for batch in one_shot)
    assert not any(batch.reference_tile_mask.any() for batch in zero_shot)
    np.testing.assert_array_equal(one_shot[1].token_ids, zero_shot[1].token_ids)


def test_a_batch_alone_is_made_without_threads(
    records: list[Record], chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, use = TreeFormat(chat, MODEL, TEXT), TreeUse("none")
    (of_many, *_) = make_eval_batches(records, form, use, batch_size=4, with_reference=True)
    monkeypatch.delattr("grain.MapDataset")
    (alone,) = make_eval_batches(records[:4], form, use, batch_size=4, with_reference=True)
    assert_same(alone, of_many)


def test_prompts_for_generation_hold_no_answer(records: list[Record], chat: Chat) -> None:
    form = TreeFormat(chat, MODEL, TEXT)
    (batch,) = make_eval_batches(records, form, TreeUse("none"), batch_size=11, with_reference=True)
    assert not batch.answer_mask.any() and not batch.target_mask.any() and (batch.answer_index == -1).all()
    last = np.take_along_axis(np.asarray(batch.token_ids), np.asarray(batch.source_index)[:, :, 0, 0], axis=1)
    newline = chat.question_ids("x")[-1]
    assert (last == newline).all()


def test_impossible_streams_are_refused_with_the_way_out(records: list[Record], chat: Chat) -> None:
    with pytest.raises(StreamError, match="num_train"):
        loader([], chat)
    with pytest.raises(StreamError, match="no records"):
        make_eval_batches([], TreeFormat(chat, MODEL, TEXT), TreeUse("best"), batch_size=2, with_reference=True)
    with pytest.raises(StreamError, match="batch_size = 4 .* 3 processes"):
        loader(records, chat, process_count=3)
    bare = [dataclasses.replace(record, descriptions=()) for record in records]
    with pytest.raises(TreeError, match=r"record r\d+ has no descriptions"):
        next(loader(bare, chat, train_config(questions="description")))


def test_a_position_in_other_data_of_the_same_size_is_refused(records: list[Record], chat: Chat) -> None:
    state = loader(records, chat, revision="before").get_state()
    loader(records, chat, revision="before").set_state(state)
    with pytest.raises(StreamError, match="revision = before, this one after"):
        loader(records, chat, revision="after").set_state(state)


@pytest.fixture(scope="module")
def quickstart_records() -> list[Record]:
    data = dataclasses.replace(quickstart().data, num_train=192, num_test=1)
    return [found for found in read_records(data, "train", 0) if isinstance(found, Record)]


def quickstart() -> Config:
    return from_config_dict(runpy.run_path(str(QUICKSTART))["get_config"]())


def quickstart_chat(records: list[Record], text: TextConfig) -> Chat:
    asked = [question for record in records for question in (*record.questions, *record.descriptions)]
    words = [asked_or_told for q in asked for asked_or_told in (q.text, *(answer.text for answer in q.answers))]
    corpus = [*words, *(fact for record in records for fact in record.facts)]
    return Chat(text, train_tokenizer(corpus, text.vocab_size))


def quickstart_stream(
    records: list[Record], stage: str, text: TextConfig, *, group_batches: int, **changes: Any
) -> TrainLoader:
    config, chat = quickstart(), quickstart_chat(records, text)
    options = StreamOptions(**{"seed": 0, "prefetch": 2, "group_batches": group_batches, **changes})
    return make_train_loader(records, TreeFormat(chat, config.model, text), config.training(stage), options)


def num_compiled(batches: list[TreeBatch]) -> int:
    """Shapes that a jitted step tells apart."""
    return len({(jax.tree.structure(batch), tuple(leaf.shape for leaf in jax.tree.leaves(batch))) for batch in batches})


@pytest.mark.parametrize("stage", ["base", "plain", "sfe", "dpo", "edpo"])
def test_a_stage_of_the_quickstart_pads_under_a_tenth_in_two_shapes(
    stage: str, quickstart_records: list[Record]
) -> None:
    config = quickstart()
    how: dict[str, Any] = {"group_batches": config.data.group_batches}
    stream = quickstart_stream(quickstart_records, stage, config.text, **how)
    assert stream.shapes is not None and len(stream.shapes.shapes) <= config.text.num_shapes
    batches = take(stream, 200)  # more than shapes were chosen by
    assert num_compiled(batches) <= config.text.num_shapes == 2
    padding = 1.0 - np.mean([batch.token_mask.mean() for batch in batches])
    assert padding < 0.10 and abs(padding - stream.shapes.padding) < 0.01
    alone = quickstart_stream(quickstart_records, stage, config.text, group_batches=0)
    assert alone.shapes is not None and stream.shapes.padding < alone.shapes.padding


def test_shapes_are_those_of_all_processes_and_alter_nothing_but_padding(quickstart_records: list[Record]) -> None:
    chosen, given = quickstart().text, dataclasses.replace(quickstart().text, buckets=(608,))
    how: dict[str, Any] = {"group_batches": 4}
    whole = quickstart_stream(quickstart_records, "sfe", chosen, **how)
    parts = [
        quickstart_stream(quickstart_records, "sfe", chosen, **how, process_index=index, process_count=3)
        for index in range(3)
    ]
    assert [part.shapes for part in parts] == [whole.shapes] * 3
    long = quickstart_stream(quickstart_records, "sfe", given, **how)
    long.set_state(whole.get_state())  # a stage goes on under other shapes
    for batch, other, *shares in zip(take(whole, 6), take(long, 6), *(take(part, 6) for part in parts), strict=True):
        length = batch.token_ids.shape[1]
        assert {share.token_ids.shape[1] for share in shares} == {length} and other.token_ids.shape[1] == 608
        np.testing.assert_array_equal(np.concatenate([share.token_ids for share in shares]), batch.token_ids)
        np.testing.assert_array_equal(other.record_index, batch.record_index)
        np.testing.assert_array_equal(other.token_ids[:, :length], batch.token_ids)
        assert not other.token_mask[:, length:].any()


def test_the_longest_tree_fits_though_no_batch_was_measured_with_it(records: list[Record], chat: Chat) -> None:
    text, answers = dataclasses.replace(TEXT, buckets=()), (Answer("Yes. " + "a dent, " * 5),)
    long = dataclasses.replace(records[0], questions=(Question("Is it so? " * 60, answers),))
    many = [*records[1:] * 40, long]
    train = train_config(batch_size=2, steps=1, warmup_steps=0)
    stream = loader(many, chat, train, text=text)
    assert stream.shapes is not None
    needed = build_tree(long, TreeFormat(chat, MODEL, text), TreeUse("best"), with_reference=True)
    assert stream.shapes.shapes[-1].holds(needed_shape(needed.tokens, (0,)))
    drawn = next(batch for batch in stream if len(many) - 1 in batch.record_index)
    stream.close()
    assert drawn.token_ids.shape[1] == stream.shapes.shapes[-1].length


def test_batches_without_buckets_come_in_few_shapes_in_evaluation(quickstart_records: list[Record]) -> None:
    config = quickstart()
    chat = quickstart_chat(quickstart_records, config.text)
    form = TreeFormat(chat, config.model, config.text)
    found = make_eval_batches(quickstart_records, form, TreeUse("ranked"), batch_size=16, with_reference=True)
    batches = [*found]
    assert num_compiled(batches) <= 4 and all(batch.token_mask.any(axis=1).all() for batch in batches)
