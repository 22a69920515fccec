"""Reference log-probabilities: computed once, kept by what they depend on, attached to the right answers."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig, TrainConfig
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from sage_jax.data.trees.shapes import TreeShape
from sage_jax.data.trees.tree import Capacity, build_tree, stack_rows
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import digest, split
from sage_jax.process.signals import Interrupted
from sage_jax.sharding import make_mesh
from sage_jax.training.reference_policy import ReferenceKey, _PartialTable, attach_reference, reference_logps
from tests.campaign.mutate import damage
from tests.support.inspection_records import MODEL, TEXT, make_chat, make_records
from tests.support.tiny_sage import random_params


class CountingResponder(Responder):
    """Counts the batches that it scores."""

    scored = 0

    def answer_logps(self, batch: TreeBatch) -> np.ndarray:
        self.scored += 1
        return super().answer_logps(batch)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return make_chat()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return make_records(6)


def make_responder(chat: Chat, *, reference_in_prompt: bool = False) -> CountingResponder:
    placeholders = Placeholders(chat.image_id, chat.comparison_id, reference_in_prompt)
    graphdef, shapes = split(nnx.eval_shape(lambda: Sage(MODEL, chat.vocab_size, placeholders, nnx.Rngs(0))))
    decoding = Decoding(max_new_tokens=2, end_id=chat.end_id, verdict_ids=chat.verdict_ids)
    return CountingResponder(graphdef, random_params(shapes), make_mesh(MeshConfig(data=4, fsdp=1, tensor=2)), decoding)


@pytest.fixture(scope="module")
def responder(chat: Chat) -> CountingResponder:
    return make_responder(chat)


def make_key(chat: Chat, **changes: Any) -> ReferenceKey:
    form = {name: changes.pop(name) for name in ("model", "text") if name in changes}
    key = ReferenceKey("weights", "data", dataclasses.replace(TreeFormat(chat, MODEL, TEXT), **form))
    return dataclasses.replace(key, **changes)


def table_of(
    folder: Path, records: list[Record], wanted: tuple[list[int], list[int]], responder: Responder, key: ReferenceKey
) -> np.ndarray:
    with RunLog(folder / "run", "edpo") as log:
        return reference_logps(
            records,
            wanted,
            responder=responder,
            key=key,
            batch_size=4,
            folder=folder / "kept",
            log=log,
            mesh=make_mesh(MeshConfig(data=4, fsdp=1, tensor=2)),
        )


@pytest.fixture(scope="module")
def direct(records: list[Record], chat: Chat, responder: CountingResponder) -> np.ndarray:
    """The whole table in the plainest way: every record and mode in a batch of the records' own order."""
    modes, form, use = [], TreeFormat(chat, MODEL, TEXT), TreeUse("ranked")
    for with_reference in (False, True):
        parts = []
        for start in range(0, 6, 4):
            rows = [
                build_tree(record, form, use, with_reference=with_reference) for record in records[start : start + 4]
            ]
            batch = stack_rows([*rows, *[None] * (4 - len(rows))], form, Capacity(2, 3), TreeShape(128))
            parts.append(responder.answer_logps(batch)[: len(rows)])
        modes.append(np.concatenate(parts))
    return np.stack(modes, axis=1)


def test_the_table_is_what_the_responder_says_and_is_computed_once(
    tmp_path: Path, records: list[Record], chat: Chat, responder: CountingResponder, direct: np.ndarray
) -> None:
    key, before, everything = make_key(chat), responder.scored, (list(range(6)), list(range(6)))
    table = table_of(tmp_path, records, everything, responder, key)
    np.testing.assert_allclose(table, direct, atol=1e-5)
    assert np.abs(direct[1, 0] - direct[1, 1]).max() > 1e-3, "the reference image matters"
    assert responder.scored == before + 4
    np.testing.assert_array_equal(table_of(tmp_path, records, everything, responder, key), table)
    assert responder.scored == before + 4


def test_only_what_is_wanted_and_missing_is_computed(
    tmp_path: Path, records: list[Record], chat: Chat, responder: CountingResponder, direct: np.ndarray
) -> None:
    key = make_key(chat)
    # Records 0 and 2 have one question of two answers; the table has room for all there are.
    first = table_of(tmp_path, records, ([0, 2], [2]), responder, key)
    assert first.shape == direct.shape
    np.testing.assert_allclose(first[[0, 2], 0], direct[[0, 2], 0], atol=1e-5)
    np.testing.assert_allclose(first[2, 1], direct[2, 1], atol=1e-5)
    assert np.isnan(first[[1, 3, 4, 5]]).all() and np.isnan(first[0, 1]).all()
    before = responder.scored
    table = table_of(tmp_path, records, ([0, 2], [0, 1, 2, 5]), responder, key)
    assert responder.scored == before + 1  # records 0, 1 and 5, one-shot, in one batch
    np.testing.assert_allclose(table[[0, 1, 2, 5], 1], direct[[0, 1, 2, 5], 1], atol=1e-5)
    np.testing.assert_array_equal(table[[0, 2], 0], first[[0, 2], 0])
    assert np.isnan(table[[3, 4]]).all() and np.isnan(table[1, 0]).all()
    np.testing.assert_array_equal(table[5, 0], table[5, 1])  # record 5 has no reference image


def test_a_stop_keeps_the_batches_done_and_the_next_call_goes_on_to_the_same_bits(
    tmp_path: Path,
    records: list[Record],
    chat: Chat,
    responder: CountingResponder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything, key = (list(range(6)), list(range(6))), make_key(chat)
    whole = table_of(tmp_path / "whole", records, everything, responder, key)
    before, answer = responder.scored, responder.answer_logps

    def signalled(batch: TreeBatch) -> np.ndarray:
        if responder.scored == before + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(batch)

    with monkeypatch.context() as patch:
        patch.setattr(responder, "answer_logps", signalled)
        with pytest.raises(Interrupted, match="stopped after 3 of 4 batches"):
            table_of(tmp_path, records, everything, responder, key)
    (partial,) = (tmp_path / "kept").iterdir()
    with partial.open("ab") as file:
        file.write(b"cut short by a kill")
    before = responder.scored
    table = table_of(tmp_path, records, everything, responder, key)
    assert responder.scored == before + 1
    np.testing.assert_array_equal(table, whole)
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".npy"]


def test_batches_of_another_size_are_not_gone_on_with(
    tmp_path: Path, records: list[Record], chat: Chat, responder: CountingResponder, direct: np.ndarray
) -> None:
    everything, key = (list(range(6)), list(range(6))), make_key(chat)
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / f"{key.digest()}.partial").write_bytes(np.array([6, 8, 2, 3], "<i4").tobytes() + b"0" * 500)
    np.testing.assert_allclose(table_of(tmp_path, records, everything, responder, key), direct, atol=1e-5)


def test_a_record_without_a_reference_image_is_known_zero_shot_whatever_was_drawn(
    tmp_path: Path, records: list[Record], chat: Chat, responder: CountingResponder, direct: np.ndarray
) -> None:
    alone = [dataclasses.replace(record, reference_image=None) for record in records]
    table = table_of(tmp_path, alone, ([], [1, 3]), responder, make_key(chat))
    np.testing.assert_allclose(table[[1, 3], 0], direct[[1, 3], 0], atol=1e-5)
    np.testing.assert_array_equal(table[[1, 3], 1], table[[1, 3], 0])


def test_every_change_of_what_it_depends_on_gives_another_key(chat: Chat) -> None:
    key = make_key(chat)
    longer = dataclasses.replace(TEXT, assist_prompt="Look there.")
    others = [
        make_key(chat, weights_digest=digest({"a": jnp.zeros(1)})),
        make_key(chat, data_revision="other"),
        make_key(chat, text=longer),
        make_key(chat, model=dataclasses.replace(MODEL, max_tiles=2)),
    ]
    assert make_key(make_chat()).digest() == key.digest()
    assert len({one.digest() for one in [key, *others]}) == 1 + len(others)


def test_a_training_batch_gets_the_values_of_its_own_record_mode_and_question(
    records: list[Record], chat: Chat, responder: CountingResponder, direct: np.ndarray
) -> None:
    train = TrainConfig(batch_size=4, answers="ranked", questions_per_image=1, reference_drop_rate=0.5)
    loader = make_train_loader(records, TreeFormat(chat, MODEL, TEXT), train, StreamOptions(seed=1))
    attach, modes, asked = attach_reference(direct), set(), set()
    for _ in range(4):
        batch = attach(next(loader))
        found = np.asarray(batch.reference_logps)
        np.testing.assert_allclose(found, responder.answer_logps(batch), atol=1e-5)
        modes |= {bool(shown.any()) for shown in np.asarray(batch.reference_tile_mask)}
        asked |= set(np.asarray(batch.question_ids).ravel().tolist())
    assert modes == {True, False} and asked == {0, 1}


def test_a_reference_in_the_prompt_is_there_for_the_reference_policy_too(
    tmp_path: Path, records: list[Record], chat: Chat, direct: np.ndarray
) -> None:
    text = dataclasses.replace(TEXT, reference="prompt")
    responder, key = make_responder(chat, reference_in_prompt=True), make_key(chat, text=text)
    assert key.digest() != make_key(chat).digest()
    table = table_of(tmp_path, records, (list(range(6)), list(range(6))), responder, key)
    np.testing.assert_allclose(table[:, 0], direct[:, 0], atol=1e-5)
    assert np.abs(table[:, 1] - direct[:, 1])[[0, 1, 3, 4]].max(axis=(1, 2)).min() > 1e-3
    train = TrainConfig(batch_size=4, answers="ranked", reference_drop_rate=0.5)
    loader = make_train_loader(records, TreeFormat(chat, MODEL, text), train, StreamOptions(seed=1))
    attach, modes = attach_reference(table), set()
    for _ in range(3):
        batch = attach(next(loader))
        modes |= {bool(shown.any()) for shown in np.asarray(batch.reference_tile_mask)}
        np.testing.assert_allclose(batch.reference_logps, responder.answer_logps(batch), atol=1e-5)
    assert modes == {True, False}


def test_padding_rows_and_missing_questions_get_zeros(records: list[Record], chat: Chat, direct: np.ndarray) -> None:
    form = TreeFormat(chat, MODEL, TEXT)
    row = build_tree(records[0], form, TreeUse("ranked"), with_reference=True)
    batch = stack_rows([row, None], form, Capacity(2, 3), TreeShape(128))
    found = attach_reference(np.where(np.isnan(direct), np.nan, direct + 1.0))(batch).reference_logps
    assert (found[0, 0] != 0.0).all() and not found[0, 1].any() and not found[1].any()


def test_a_damaged_table_is_computed_again(
    tmp_path: Path, records: list[Record], chat: Chat, responder: CountingResponder
) -> None:
    key, everything, rng = make_key(chat), (list(range(6)), list(range(6))), random.Random(0)
    table = table_of(tmp_path, records, everything, responder, key)
    (path,) = (tmp_path / "kept").glob("*.npy")
    whole = path.read_bytes()
    for how in ("truncated", "emptied", "flipped"):
        path.write_bytes(damage(whole, how, rng) or b"")
        before = responder.scored
        np.testing.assert_array_equal(table_of(tmp_path, records, everything, responder, key), table)
        assert responder.scored == before + 4 and path.read_bytes() == whole
    assert (tmp_path / "run" / "log.txt").read_text().count("is damaged") == 3


def test_of_a_damaged_table_under_way_the_whole_batches_count(tmp_path: Path) -> None:
    partial = _PartialTable(tmp_path / "t.partial", 4, 2)
    for number in range(2):
        logps = np.full((2, 1, 2), 1.0 + number, np.float32)
        partial.append(partial.entry(0, np.array([2 * number, 2 * number + 1]), np.array([False, False]), logps))
    whole = partial.added_to(None)
    assert whole is not None and not np.isnan(whole[:, 0]).any()
    content, path = (tmp_path / "t.partial").read_bytes(), tmp_path / "t.partial"
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
        found = partial.added_to(None)
        known = np.zeros((4, 2, 1, 2), bool) if found is None else ~np.isnan(found)
        assert not known[2:].any()  # nothing behind the damage
        if found is not None:
            np.testing.assert_array_equal(found[known], whole[known])
