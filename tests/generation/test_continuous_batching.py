"""Answers of rows that never wait for each other, against those of batches that end together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from sage_jax.batch import Answers, Scores, TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.generation.continuous_batching import ContinuousBatching
from sage_jax.generation.continuous_decode import RowStates
from sage_jax.generation.responder import Responder
from sage_jax.generation.sampling import Sampling
from sage_jax.sharding import MESH_AXES
from tests.generation.test_responder import NEW, make_responder
from tests.support.tiny_sage import VOCAB_SIZE, batch_of, random_tree

MESH = MeshConfig(data=2, fsdp=1, tensor=4)
ONE = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
"""A mesh of one device, for which programs compile in a third of the time."""
IMAGES, ROWS, GROUP = 13, 4, 2
STOPS = tuple(range(8, VOCAB_SIZE, 5))


def groups_of(images: int, *, rows: int = GROUP, num_lengths: int = 2) -> list[tuple[TreeBatch, np.ndarray]]:
    """Batches of images of one to three questions, in trees of one or two lengths, and the seeds of their draws."""
    rng, found = np.random.default_rng(4), []
    for start in range(0, images, rows):
        trees = [
            dataclasses.replace(tree, questions=[(question, []) for question, _ in tree.questions])
            for tree in (random_tree(rng, num_questions=3, num_answers=1) for _ in range(min(rows, images - start)))
        ]
        trees[0] = dataclasses.replace(trees[0], has_reference=True)  # batches without any compile anew
        long = 8 * (start // rows % 3 == 1 and num_lengths == 2)
        batch = batch_of([*trees, *[None] * (rows - len(trees))], rng, length=40 + long, num_questions=3)
        index = np.where(batch.record_index >= 0, batch.record_index + start, -1)
        found.append((dataclasses.replace(batch, record_index=index), 40 + np.arange(start, start + rows)))
    names = ("prefix_slots", "question_slots")
    layout = {name: max(getattr(batch, name) for batch, _ in found) for name in names}  # as streams have it: one
    return [(dataclasses.replace(batch, **layout), seeds) for batch, seeds in found]


def in_batches(responder: Responder, groups: list[tuple[TreeBatch, np.ndarray]]) -> dict[int, Answers]:
    """What `Responder.answer` gives of each image."""
    found = {}
    for batch, seeds in groups:
        answers = responder.answer(batch, seeds)
        for row in np.flatnonzero(batch.record_index >= 0):
            found[int(batch.record_index[row])] = jax.tree.map(lambda leaf, row=row: leaf[row], answers)
    return found


def lengths_of(answers: dict[int, Answers], closing: tuple[int, ...]) -> list[int]:
    """Tokens of each image's longest answer."""
    lengths = []
    for index in sorted(answers):
        closed = np.isin(answers[index].token_ids, closing)
        ends = np.where(closed.any(axis=1), closed.argmax(axis=1) + 1, NEW)
        lengths.append(int(ends.max()))
    return lengths


def scheduled_steps(lengths: list[int], *, rows: int, group: int) -> int:
    """Steps of images of so many tokens, a row at a time: a group comes in when there are rows for all of it."""
    waiting = [lengths[start : start + group] for start in range(0, len(lengths), group)]
    left, steps = [0] * rows, 0  # steps that each row has before it
    while waiting or any(left):
        while waiting and left.count(0) >= len(waiting[0]):
            for length in waiting.pop(0):
                left[left.index(0)] = length - 1
            if not waiting or left.count(0) < len(waiting[0]):
                break
        wanted = len(waiting[0]) if waiting else rows
        while left.count(0) < wanted:
            left = [max(each - 1, 0) for each in left]
            steps += 1
    return steps


PLACES = tuple((10 + cell,) if cell % 2 else (9, 19 + cell) for cell in range(9))
"""Ids of the words of nine cells, some of two words."""


@pytest.mark.parametrize(
    ("mesh", "num_lengths", "options"),
    [
        (MESH, 2, {"sampling": Sampling()}),
        (ONE, 1, {"sampling": Sampling(repetition_penalty=1.8)}),
        (ONE, 1, {"sampling": Sampling(1.2, top_k=20, repetition_penalty=1.3, seed=5)}),
        (MESH, 1, {"sampling": Sampling(1.2, seed=7), "place_ids": PLACES, "map_places": 2.0}),
    ],
    ids=["greedy", "penalised", "drawn", "by the map"],
)
def test_images_are_answered_as_in_batches(mesh: MeshConfig | Mesh, num_lengths: int, options: dict[str, Any]) -> None:
    responder = make_responder(2, mesh, **options, stop_ids=STOPS)
    groups = groups_of(IMAGES, num_lengths=num_lengths)  # each length compiles what reads it
    expected, stream = in_batches(responder, groups), ContinuousBatching(responder, num_rows=ROWS)
    found = list(stream.answers(groups))
    assert [index for index, _ in found] == list(range(IMAGES))
    for index, answers in found:
        np.testing.assert_array_equal(answers.token_ids, expected[index].token_ids)
        np.testing.assert_allclose(answers.verdict_score, expected[index].verdict_score, atol=1e-5)
        np.testing.assert_allclose(answers.similarity, expected[index].similarity, atol=1e-6)
    lengths = lengths_of(expected, (2, *STOPS))
    assert len(set(lengths)) > 2 and max(lengths) == NEW
    together = sum(max(lengths[start : start + ROWS]) - 1 for start in range(0, IMAGES, ROWS))
    assert stream.steps == scheduled_steps(lengths, rows=ROWS, group=GROUP) < together


class Counted:
    """A decoder of nothing: an image's answer is its index, and takes so many tokens."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def prefill_rows(self, batch: TreeBatch, seeds: np.ndarray | None) -> tuple[Scores, Any]:
        index = batch.record_index
        return Scores(index[:, None] * 1.0, index[:, None] * 2.0), index

    def rows_that_fit(self, group: Any, most: int) -> int:
        return max(len(group), min(most, 3))

    def put_rows(self, rows: Any | None, group: Any, into: np.ndarray, *, num_rows: int) -> Any:
        index, left = np.full((2, num_rows), 0) if rows is None else rows
        for image, row in zip(group, into, strict=True):
            if row < num_rows:
                assert image >= 0 and left[row] == 0  # nobody's row
                index[row], left[row] = image, self.lengths[image] - 1
        return index, left

    def decode_rows(self, rows: Any, *, wanted: int) -> tuple[Any, RowStates]:
        index, left = rows
        steps = 0
        while (left == 0).sum() < wanted:
            left = np.maximum(left - 1, 0)
            steps += 1
        return (index, left), RowStates(left == 0, index[:, None, None], np.asarray(steps))


@pytest.mark.parametrize(("images", "num_rows", "group"), [(23, 4, 2), (9, 5, 3), (2, 4, 4), (7, 3, 1), (4, 4, 2)])
def test_images_come_in_order_and_wait_for_no_other(images: int, num_rows: int, group: int) -> None:
    lengths = np.random.default_rng(images).integers(1, 12, images).tolist()
    stream = ContinuousBatching(Counted(lengths), num_rows=num_rows)
    found = list(stream.answers(groups_of(images, rows=group)))
    assert [index for index, _ in found] == list(range(images))
    for index, answers in found:
        assert answers.token_ids.item() == index == answers.verdict_score.item() == answers.similarity.item() / 2
    assert stream.steps == scheduled_steps(lengths, rows=num_rows, group=group)
    with pytest.raises(ValueError, match="for 1 rows; give it fewer"):
        list(ContinuousBatching(Counted(lengths), num_rows=1).answers(groups_of(2)))


def test_as_many_rows_are_decoded_as_the_memory_holds() -> None:
    lengths = np.random.default_rng(5).integers(1, 12, 17).tolist()
    stream = ContinuousBatching(Counted(lengths), num_rows=8, by_memory=True)
    assert [index for index, _ in stream.answers(groups_of(17))] == list(range(17))
    assert stream.steps == scheduled_steps(lengths, rows=3, group=GROUP) > scheduled_steps(lengths, rows=8, group=GROUP)


@pytest.mark.parametrize("mesh", [ONE, MESH], ids=["one device", "rows on two, heads on four"])
def test_the_rows_that_fit_take_what_is_free(mesh: MeshConfig | Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    responder, ((batch, seeds), *_) = make_responder(2, mesh, stop_ids=STOPS), groups_of(2)
    _, group = responder.prefill_rows(batch, seeds)
    assert responder.rows_that_fit(group, 64) == 64  # a CPU does not tell
    monkeypatch.setattr("sage_jax.generation.responder.smallest_free", lambda devices: 1)
    assert responder.rows_that_fit(group, 64) == len(batch.token_ids)
    into = np.arange(GROUP, dtype=np.int32)
    size = 32
    rows = responder.put_rows(None, group, into, num_rows=size)
    leaves = [leaf for leaf in jax.tree.leaves(rows) if leaf.ndim]
    taken = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    monkeypatch.setattr("sage_jax.generation.responder.smallest_free", lambda devices: int(taken / 0.4) + 1)
    assert 0.9 * size <= responder.rows_that_fit(group, 64) <= size
    assert responder.rows_that_fit(group, 8) == 8


def test_one_image_alone_and_answers_of_one_token() -> None:
    groups = groups_of(1)
    for responder in (make_responder(2, ONE), make_responder(2, ONE, stop_ids=tuple(range(VOCAB_SIZE)))):
        stream = ContinuousBatching(responder, num_rows=ROWS)
        ((index, found),) = stream.answers(groups)
        expected = in_batches(responder, groups)[0]
        assert index == 0
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    assert stream.steps == 0
    assert list(ContinuousBatching(responder, num_rows=ROWS).answers([])) == []


def test_nothing_compiles_after_the_longest_group_has_come() -> None:
    responder = make_responder(2, ONE, sampling=Sampling(1.1, seed=1), stop_ids=STOPS)
    names = ("prefill_rows", "free_rows", "widen_rows", "put_rows", "decode_rows")

    def compiled() -> dict[str, int]:
        return {name: getattr(responder._functions, name)._cache_size() for name in names}

    before = compiled()  # `widen_rows` is no model's own: other tests have compiled it, too
    assert sum(before.values()) == before["widen_rows"]
    groups = groups_of(IMAGES)
    assert len({batch.token_ids.shape[1] for batch, _ in groups}) == 2
    stream = ContinuousBatching(responder, num_rows=ROWS)
    list(stream.answers(groups[:2]))
    once = compiled()
    assert max(once[name] - before[name] for name in names) <= 2  # of two lengths
    assert min(once.values()) >= 1
    list(stream.answers(groups[2:]))
    assert compiled() == once
