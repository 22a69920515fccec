"""The Grain stream: seeded, resumable, the same for any number of processes and workers."""

from __future__ import annotations

import dataclasses
import io
import itertools
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from sage_jax.batch import TreeBatch
from sage_jax.config import Config, ModelConfig, TextConfig, TrainConfig, VitConfig, from_config_dict
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

TEXT = TextConfig(vocab_size=320, max_facts=2, max_fact_tokens=48, max_answer_tokens=48, buckets=(256, 1024, 2048))
QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.py"
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


@pytest.fixture(scope="module")
def records() -> list[Record]:
    rng = np.random.default_rng(7)
    return [make_record(index, rng) for index in range(11)]


@pytest.fixture(scope="module")
def chat(records: list[Record]) -> Chat:
    texts = [answer.text for record in records for question in record.questions for answer in question.answers]
    return Chat(TEXT, train_tokenizer(texts, TEXT.vocab_size))


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


def test_every_epoch_reads_each_record_once_in_a_new_order(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat), 11)  # 44 rows: 4 epochs of 11
    epochs = np.concatenate([batch.record_index for batch in batches]).reshape(4, 11)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(11))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_reference_is_dropped_at_its_rate(records: list[Record], chat: Chat) -> None:
    for rate, low, high in [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.3, 0.55, 0.85)]:
        batches = take(loader(records, chat, train_config(batch_size=20, reference_drop_rate=rate)), 10)
        shown = np.concatenate([batch.reference_tile_mask.any(axis=1) for batch in batches])
        assert low <= shown.mean() <= high
        assert not np.concatenate([batch.reference_tiles for batch in batches])[~shown].any()


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


def test_questions_are_drawn_anew_and_all_of_them_in_time(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat, train_config(batch_size=20)), 10)
    asked = np.concatenate([batch.question_ids for batch in batches])
    assert asked.shape == (200, 2)
    assert (asked[:, 0] < asked[:, 1]).all()
    np.testing.assert_allclose(np.bincount(asked.reshape(-1), minlength=5) / 400, 0.2, atol=0.06)
    every = take(loader(records, chat, train_config(questions_per_image=0)), 1)[0]
    np.testing.assert_array_equal(every.question_ids, np.tile(np.arange(5), (4, 1)))


def test_bucket_is_the_smallest_that_holds_the_longest_row(records: list[Record], chat: Chat) -> None:
    batches = take(loader(records, chat, train_config(questions_per_image=1, batch_size=2)), 12)
    batches += take(loader(records, chat, train_config(questions_per_image=0, answers="ranked")), 6)
    lengths = [batch.token_ids.shape[1] for batch in batches]
    assert len(set(lengths)) > 1
    for batch, length in zip(batches, lengths, strict=True):
        used = int(np.flatnonzero(batch.token_mask.any(axis=0)).max()) + 1
        assert length == min(bucket for bucket in TEXT.buckets if bucket >= used)


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


def test_prompts_for_generation_hold_no_answer(records: list[Record], chat: Chat) -> None:
    form = TreeFormat(chat, MODEL, TEXT)
    (batch,) = make_eval_batches(records, form, TreeUse("none"), batch_size=11, with_reference=True)
    assert not batch.answer_mask.any() and not batch.target_mask.any() and (batch.answer_index == -1).all()
    last = np.take_along_axis(np.asarray(batch.token_ids), np.asarray(batch.source_index)[:, :, 0, 0], axis=1)
    newline = chat.question_ids("x")[-1]
    assert (last == newline).all()


def test_records_with_fewer_questions_leave_slots_empty(chat: Chat) -> None:
    rng = np.random.default_rng(0)
    mixed = [make_record(0, rng, num_questions=1), make_record(1, rng, num_questions=3)]
    form = TreeFormat(chat, MODEL, TEXT)
    (batch,) = make_eval_batches(mixed, form, TreeUse("ranked"), batch_size=2, with_reference=True)
    assert batch.question_ids.tolist() == [[0, -1, -1], [0, 1, 2]]
    assert batch.answer_mask.any(axis=2).tolist() == [[True, False, False], [True, True, True]]


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
