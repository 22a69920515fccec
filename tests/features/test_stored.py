"""Stored ViT features: computed once for each distinct image, resumed, refused without room, unnoticed by training."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, MeshConfig, TrainConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record, Reference
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.stream.vit_features import FeatureError, StoredFeatures, tile_sums
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat, feature_form
from sage_jax.features import stored as feature_store
from sage_jax.features.stored import FeatureKey, stored_features
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.process.files import locked
from sage_jax.process.signals import Interrupted
from sage_jax.sharding import make_mesh
from sage_jax.training.objectives import SftObjective
from sage_jax.training.optim import partition
from tests.support.inspection_records import TEXT, make_chat, make_records
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import TINY, random_params

MODEL = dataclasses.replace(TINY, max_tiles=2)
MESH = MeshConfig(data=4, fsdp=1, tensor=2)
TRAIN = TrainConfig(batch_size=4, reference_drop_rate=0.3, similarity_weight=0.5)


class CountingResponder(Responder):
    """Notes how many tiles each call of the ViT gets; may ask its process to stop at one of them."""

    calls: list[int]
    stop_at = 0

    def vit_features(self, tiles: np.ndarray) -> np.ndarray:
        self.calls.append(len(tiles))
        if len(self.calls) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().vit_features(tiles)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return make_chat()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Six records, the third and sixth without a reference; one wide image of three tiles, two images that repeat.

    The fifth has three references, the last of which is the second of them.
    """
    found = make_records(6)
    wide = encode_png(np.random.default_rng(5).integers(0, 256, (8, 16, 3), np.uint8))
    found[1] = dataclasses.replace(found[1], test_image=wide)
    found[3] = dataclasses.replace(found[3], test_image=found[0].test_image, reference_image=found[0].reference_image)
    others = [Reference(found[index].test_image, found[index].test_path) for index in (1, 0)]
    found[4] = dataclasses.replace(found[4], further_references=(*others,))
    return found


@pytest.fixture(scope="module")
def params(chat: Chat) -> Params:
    return random_params(split(nnx.eval_shape(lambda: make_sage(chat)))[1])


def make_sage(chat: Chat) -> Sage:
    return Sage(MODEL, chat.vocab_size, Placeholders(chat.image_id, chat.comparison_id), nnx.Rngs(0))


@pytest.fixture
def responder(chat: Chat, params: Params) -> CountingResponder:
    decoding = Decoding(max_new_tokens=2, end_id=chat.end_id, verdict_ids=chat.verdict_ids)
    made = CountingResponder(split(nnx.eval_shape(lambda: make_sage(chat)))[0], params, make_mesh(MESH), decoding)
    made.calls = []
    return made


def store(folder: Path, records: list[Record], responder: Responder, **changes: Any) -> StoredFeatures:
    with RunLog(folder / "run", "sfe") as run:
        return stored_features(
            records,
            responder=responder,
            key=dataclasses.replace(FeatureKey("weights", "data", MODEL), **changes),
            batch_size=4,
            folder=folder / "kept",
            run=run,
            mesh=make_mesh(MESH),
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def batches_of(records: list[Record], chat: Chat, features: StoredFeatures | None, number: int) -> list[TreeBatch]:
    form = TreeFormat(chat, MODEL, TEXT)
    stream = make_train_loader(records, form, TRAIN, StreamOptions(seed=0), features=features)
    found = list(itertools.islice(stream, number))
    stream.close()
    return found


def test_each_distinct_image_is_computed_once_and_found_again(
    whole: Path, records: list[Record], responder: CountingResponder
) -> None:
    stored = store(whole, records, responder)
    # Ten images, two of them twice; one has three tiles: 8 - 1 + 3 tiles in batches of four.
    assert responder.calls == [4, 4, 4]
    np.testing.assert_array_equal(stored.spans[3], stored.spans[0])
    assert stored.path.stat().st_size == 10 * stored.form.nbytes == 10 * 4 * 32 * 4
    test, reference = stored.of(1)
    assert test.shape == (3, 4, 32) and reference.shape == (1, 4, 32)
    assert len(stored.of(2)) == 1
    several = stored.of(4)
    assert [len(each) for each in several] == [1, 1, 3, 1]
    np.testing.assert_array_equal(several[2], test)
    np.testing.assert_array_equal(several[3], stored.of(0)[0])
    again = store(whole, records, responder)
    assert len(responder.calls) == 3
    np.testing.assert_array_equal(again.of(4)[0], stored.of(4)[0])


def test_a_stop_keeps_what_was_computed_and_the_next_call_ends_with_the_same_bytes(
    tmp_path: Path, whole: Path, records: list[Record], responder: CountingResponder
) -> None:
    expected = store(whole, records, responder).path.read_bytes()
    responder.calls, responder.stop_at = [], 2
    with pytest.raises(Interrupted, match="8 of 10 tiles"):
        store(tmp_path, records, responder)
    (partial,) = (tmp_path / "kept").glob("*/features.partial")
    assert partial.read_bytes() == expected[: partial.stat().st_size]
    os.truncate(partial, partial.stat().st_size - 100)  # a kill may come inside a write
    responder.calls, responder.stop_at = [], 0
    assert store(tmp_path, records, responder).path.read_bytes() == expected
    assert len(responder.calls) == 2 and not partial.exists()


@pytest.mark.parametrize("tile", (0, 5, 9))
def test_a_flipped_bit_is_found_before_the_next_stage_and_computed_again(
    tmp_path: Path, records: list[Record], responder: CountingResponder, tile: int
) -> None:
    stored = store(tmp_path, records, responder)
    expected, responder.calls = stored.path.read_bytes(), []
    flip(stored.path, tile * stored.form.nbytes + 17)
    assert store(tmp_path, records, responder).path.read_bytes() == expected
    assert len(responder.calls) == 3 - tile // 4  # the batches before it stay
    assert "is damaged behind tile" in (tmp_path / "run" / "log.txt").read_text()


def test_damage_of_the_checksums_or_of_a_file_under_way_is_found(
    tmp_path: Path, records: list[Record], responder: CountingResponder
) -> None:
    stored = store(tmp_path, records, responder)
    expected, sums = stored.path.read_bytes(), stored.path.with_suffix(".crc32")
    flip(sums, 4 * 8)
    assert store(tmp_path, records, responder).path.read_bytes() == expected
    sums.unlink()
    assert store(tmp_path, records, responder).path.read_bytes() == expected
    partial = stored.path.with_suffix(".partial")
    os.replace(stored.path, partial)
    flip(partial, 3)
    assert store(tmp_path, records, responder).path.read_bytes() == expected
    stored.path.write_bytes(expected + b"x")  # longer than it was
    assert store(tmp_path, records, responder).path.read_bytes() == expected


def test_damage_that_comes_later_is_never_read(
    tmp_path: Path, records: list[Record], responder: CountingResponder
) -> None:
    stored = store(tmp_path, records, responder)
    stored.of(0)
    flip(stored.path, 5)
    with pytest.raises(FeatureError, match=r"features\.bin: damaged .* the same command again"):
        stored.of(0)


def flip(path: Path, position: int) -> None:
    """One bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0] ^ 4
        file.seek(position)
        file.write(bytes([value]))


def test_a_disk_without_room_is_told_with_the_bytes_before_any_work(
    tmp_path: Path, records: list[Record], responder: CountingResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: usage._replace(free=5119))
    with pytest.raises(ConfigError, match=r"5,120 bytes more in .*5,119 free: name another data\.cache_dir"):
        store(tmp_path, records, responder)
    assert responder.calls == []
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: usage._replace(free=5120))
    store(tmp_path, records, responder)


def test_two_runs_never_write_the_same_features(
    tmp_path: Path, records: list[Record], responder: CountingResponder
) -> None:
    folder = tmp_path / "kept" / FeatureKey("weights", "data", MODEL).digest()
    with locked(folder), pytest.raises(ConfigError, match="another run computes the same features"):
        store(tmp_path, records, responder)
    assert responder.calls == []


def test_features_in_bfloat16_are_read_as_written(tmp_path: Path) -> None:
    form = feature_form(MODEL, np.dtype(jnp.bfloat16))
    tiles = np.random.default_rng(0).standard_normal((3, *form.shape)).astype(form.dtype)
    (tmp_path / "features.bin").write_bytes(tiles.tobytes())
    (tmp_path / "features.crc32").write_bytes(tile_sums(tiles).tobytes())
    stored = StoredFeatures(tmp_path / "features.bin", np.array([[[0, 1], [1, 2]]]), form)
    test, reference = stored.of(0)
    assert test.dtype == form.dtype and form.nbytes == 4 * 32 * 2
    np.testing.assert_array_equal(test, tiles[:1])
    np.testing.assert_array_equal(reference, tiles[1:])


def test_every_change_of_what_they_depend_on_gives_another_key() -> None:
    key = FeatureKey("weights", "data", MODEL)
    others = [
        dataclasses.replace(key, vit_digest="other"),
        dataclasses.replace(key, data_revision="other"),
        *(
            dataclasses.replace(key, model=dataclasses.replace(MODEL, **change))
            for change in ({"max_tiles": 3}, {"downsample": 1}, {"compute_dtype": "bfloat16"})
        ),
    ]
    assert len({key.digest(), *(other.digest() for other in others)}) == 6
    unread = dataclasses.replace(MODEL, fusion=dataclasses.replace(MODEL.fusion, similarity="min"))
    assert dataclasses.replace(key, model=unread).digest() == key.digest()


def test_stored_features_go_to_worker_processes_by_their_path(
    whole: Path, records: list[Record], responder: CountingResponder
) -> None:
    stored = store(whole, records, responder)
    before = stored.of(1)[0]
    sent = pickle.dumps(stored)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).of(1)[0], before)
    np.testing.assert_array_equal(stored.chosen([5, 1]).of(1)[0], before)


def test_loss_and_gradients_equal_those_of_computing_them(
    whole: Path, records: list[Record], chat: Chat, responder: CountingResponder, params: Params
) -> None:
    stored = store(whole, records, responder)
    graphdef, objective = responder_graph(chat), SftObjective(similarity_weight=0.5)
    trainable, frozen = partition(params, ("vit/", "fact_encoder/"))

    def loss_of(trainable: Params, batch: TreeBatch) -> jax.Array:
        return objective(merge(graphdef, {**frozen, **trainable}), batch, objective.normalizers(batch))[0]

    value = jax.jit(jax.value_and_grad(loss_of), compiler_options=QUICK)
    (plain,), (given,) = (batches_of(records, chat, features, 1) for features in (None, stored))
    assert given.tiles.shape == (4, 3, 4, 32) and given.tiles.dtype == np.float32 and plain.reference_tile_mask.any()
    for field in dataclasses.fields(TreeBatch):
        if field.name not in ("tiles", "reference_tiles"):
            np.testing.assert_array_equal(getattr(given, field.name), getattr(plain, field.name))
    loss, gradients = value(trainable, given)
    expected, expected_gradients = value(trainable, plain)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[path], atol=1e-5, err_msg=path)


def responder_graph(chat: Chat) -> nnx.GraphDef[Sage]:
    return split(nnx.eval_shape(lambda: make_sage(chat)))[0]


def test_damaged_features_are_computed_again(
    tmp_path: Path, records: list[Record], responder: CountingResponder
) -> None:
    stored = store(tmp_path, records, responder)
    (table,) = (tmp_path / "kept").rglob("tiles.npz")
    content, tiles = stored.path.read_bytes(), table.read_bytes()
    cases = ((stored.path, content[:-5], 1), (stored.path, b"", 3), (table, tiles[:-40], 0), (table, b"", 0))
    for path, damaged, batches in cases:
        path.write_bytes(damaged)
        before = len(responder.calls)
        again = store(tmp_path, records, responder)
        assert again.path.read_bytes() == content
        np.testing.assert_array_equal(again.spans, stored.spans)
        assert len(responder.calls) == before + batches
    assert (tmp_path / "run" / "log.txt").read_text().count("is damaged") == 4
