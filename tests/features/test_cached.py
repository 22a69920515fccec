"""Images computed once: what is counted is ViT passes, what must not change is what a step computes."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig, TrainConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TileForm, TreeFormat, feature_form
from sage_jax.features.cached import CachedFeatures
from sage_jax.features.encoder import VitEncoder
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import make_mesh
from sage_jax.training.objectives import SftObjective
from sage_jax.training.optim import partition
from tests.support.inspection_records import TEXT, make_chat, make_records
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import TINY, random_batch, random_params

FORM = TileForm((4, 3), np.dtype(np.float64))
IMAGE_BYTES = 2 * FORM.nbytes
"""Of an image of two tiles."""

MODEL = dataclasses.replace(TINY, max_tiles=2)
MESH = MeshConfig(data=4, fsdp=1, tensor=2)
TRAIN = TrainConfig(batch_size=4, reference_drop_rate=0.3, similarity_weight=0.5)
ALL = 10**6


class Encoder:
    """Features that only the tile's own pixels decide, and the number of tiles of each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls.append(len(tiles))
        return tiles.reshape(len(tiles), -1).astype(np.float64)[:, :12].reshape(-1, 4, 3)


def references_kept(encode: Encoder, tiles_at_once: int, capacity: int) -> CachedFeatures:
    return CachedFeatures(
        encode, form=FORM, tiles_at_once=tiles_at_once, capacity=capacity, images=("reference_tiles",)
    )


@pytest.fixture
def batch() -> TreeBatch:
    """Rows 0, 2 and 4 show a reference, 1 and 3 none."""
    return random_batch(0, rows=5, padding_rows=1)


def with_references(batch: TreeBatch, images: list[int]) -> TreeBatch:
    """Row i shows image `images[i]`, where it shows one."""
    drawn = np.random.default_rng(1).integers(0, 256, (8, 2, 8, 8, 3), np.uint8)
    return dataclasses.replace(batch, reference_tiles=drawn[images])


def test_a_reference_of_many_images_is_computed_once(batch: TreeBatch) -> None:
    encode = Encoder()
    kept = references_kept(encode, tiles_at_once=4, capacity=10 * IMAGE_BYTES)
    given = with_references(batch, [5] * 6)
    first, *_, found = (kept.put_into(given) for _ in range(3))
    assert first.reference_tiles.shape == (6, 2, 4, 3) and first.tiles is given.tiles
    assert encode.calls == [4] and kept.num_computed == 1  # two tiles, and two that fill up
    for row in (0, 2, 4):
        np.testing.assert_array_equal(found.reference_tiles[row], Encoder()(given.reference_tiles[row]))
    assert not found.reference_tiles[[1, 3, 5]].any()  # masked: they show none


def test_every_call_of_the_vit_has_the_same_number_of_tiles(batch: TreeBatch) -> None:
    encode = Encoder()
    kept = references_kept(encode, tiles_at_once=3, capacity=10 * IMAGE_BYTES)  # an image may lie in two calls
    for images in ([0, 0, 1, 0, 2, 0], [1, 0, 3, 0, 4, 0], [4, 0, 3, 0, 2, 0]):
        found = kept.put_into(with_references(batch, images)).reference_tiles
        shown = with_references(batch, images).reference_tiles
        for row in (0, 2, 4):
            np.testing.assert_array_equal(found[row], Encoder()(shown[row]))
    assert encode.calls == [3, 3, 3, 3] and kept.num_computed == 5


def test_the_least_recently_used_image_is_dropped_beyond_the_capacity(batch: TreeBatch) -> None:
    kept = references_kept(Encoder(), tiles_at_once=2, capacity=2 * IMAGE_BYTES)
    counts = []
    for image in (0, 1, 0, 2, 0, 1):  # 2 drops 1, which was not used since
        kept.put_into(with_references(batch, [image] * 6))
        counts.append(kept.num_computed)
    assert counts == [1, 2, 2, 3, 3, 4]
    none = references_kept(Encoder(), tiles_at_once=2, capacity=0)
    none.put_into(with_references(batch, [1] * 6))
    none.put_into(with_references(batch, [1] * 6))
    assert none.num_computed == 2  # once a batch even so


def test_of_a_batch_that_shows_no_reference_nothing_is_computed(batch: TreeBatch) -> None:
    kept = references_kept(Encoder(), tiles_at_once=2, capacity=IMAGE_BYTES)
    hidden = dataclasses.replace(batch, reference_tile_mask=np.zeros_like(batch.reference_tile_mask))
    found = kept.put_into(hidden).reference_tiles  # the form of other batches: a step compiles once
    assert found.shape == (6, 2, 4, 3) and not found.any()
    bare = dataclasses.replace(
        batch, reference_tiles=batch.reference_tiles[:, :0], reference_tile_mask=batch.reference_tile_mask[:, :0]
    )
    assert kept.put_into(bare).reference_tiles is bare.reference_tiles and kept.num_computed == 0


def test_the_same_tiles_under_another_mask_are_another_image(batch: TreeBatch) -> None:
    kept = references_kept(Encoder(), tiles_at_once=2, capacity=10 * IMAGE_BYTES)
    same = with_references(batch, [0] * 6)
    kept.put_into(same)
    mask = np.array(same.reference_tile_mask)
    mask[0] = [True, False]
    kept.put_into(dataclasses.replace(same, reference_tile_mask=mask))
    assert kept.num_computed == 2


def test_nothing_is_waited_for_before_the_batch_is_asked_for(batch: TreeBatch) -> None:
    class Later:
        """An array that may be waited for from the second call on alone."""

        def __init__(self, tiles: np.ndarray) -> None:
            self.tiles = tiles

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            assert len(calls) > 1
            return Encoder()(self.tiles)

    def encode(tiles: np.ndarray) -> Any:
        calls.append(len(tiles))
        return Later(tiles)

    calls: list[int] = []
    kept = CachedFeatures(encode, form=FORM, tiles_at_once=16, capacity=ALL)
    other = with_references(batch, [3, 0, 3, 0, 5, 0])  # two new references, no new test image
    first, second = kept.begin(with_references(batch, [0, 1, 2, 3, 4, 5])), kept.begin(other)
    assert calls == [16, 16] and kept.num_computed == 5 + 3 + 2
    np.testing.assert_array_equal(first().tiles[0], second().tiles[0])
    np.testing.assert_array_equal(second().reference_tiles[2], Encoder()(other.reference_tiles[2]))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return make_chat()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Six records, the third and sixth without a reference: six distinct images, one of three tiles.

    All references are one image, and a test image is another record's, too, and the fifth record's reference.
    """
    found = make_records(6)
    wide = encode_png(np.random.default_rng(5).integers(0, 256, (8, 16, 3), np.uint8))
    found[1] = dataclasses.replace(found[1], test_image=wide)
    found[3] = dataclasses.replace(found[3], test_image=found[0].test_image)
    shared = {0: found[0], 1: found[0], 3: found[0]}
    for index, source in shared.items():
        found[index] = dataclasses.replace(found[index], reference_image=source.reference_image)
    found[4] = dataclasses.replace(found[4], reference_image=found[0].test_image)
    return found


NUM_IMAGES = 6
"""Five test images and one reference that is none of them."""


@pytest.fixture(scope="module")
def sage(chat: Chat) -> tuple[nnx.GraphDef[Sage], Params]:
    placeholders = Placeholders(chat.image_id, chat.comparison_id)
    graphdef, shapes = split(nnx.eval_shape(lambda: Sage(MODEL, chat.vocab_size, placeholders, nnx.Rngs(0))))
    return graphdef, random_params(shapes)


@pytest.fixture(scope="module")
def encoder(sage: tuple[nnx.GraphDef[Sage], Params]) -> VitEncoder:
    return VitEncoder(*sage, make_mesh(MESH))


def stream(records: list[Record], chat: Chat, number: int, train: TrainConfig = TRAIN) -> list[TreeBatch]:
    loader = make_train_loader(records, TreeFormat(chat, MODEL, TEXT), train, StreamOptions(seed=0))
    found = list(itertools.islice(loader, number))
    loader.close()
    return found


def kept_of(encode: Callable[[np.ndarray], Any], capacity: int) -> CachedFeatures:
    form = feature_form(MODEL, np.dtype(np.float32))
    return CachedFeatures(encode, form=form, tiles_at_once=8, capacity=capacity, by_record=True)


def distinct(batch: TreeBatch) -> int:
    """Distinct images that a batch shows."""
    shown = [(batch.tiles, batch.tile_mask), (batch.reference_tiles, batch.reference_tile_mask)]
    return len({t[m].tobytes() for tiles, mask in shown for t, m in zip(tiles, mask, strict=True) if m.any()})


def test_over_a_stream_each_distinct_image_is_computed_once(
    records: list[Record], chat: Chat, encoder: VitEncoder
) -> None:
    shapes = []

    def counting(tiles: np.ndarray) -> jax.Array:
        shapes.append(tiles.shape)
        return encoder(tiles)

    kept = kept_of(counting, ALL)
    batches = stream(records, chat, 12)
    found = [kept.put_into(batch) for batch in batches]
    assert kept.num_computed == NUM_IMAGES and set(shapes) == {(8, 8, 8, 3)}
    assert len(shapes) <= NUM_IMAGES
    # The same image has the same features to the bit, whichever call computed the images beside it.
    again = kept_of(encoder, 0)
    for given, batch in zip(found, batches, strict=True):
        before = again.num_computed
        other = again.put_into(batch)
        assert again.num_computed - before == distinct(batch)  # once a batch with no memory at all
        np.testing.assert_array_equal(other.tiles, given.tiles)
        np.testing.assert_array_equal(other.reference_tiles, given.reference_tiles)


def test_an_image_is_known_by_its_record_without_a_look_at_its_pixels(records: list[Record], chat: Chat) -> None:
    batch = next(iter(stream(records, chat, 1)))
    kept = CachedFeatures(Encoder(), form=FORM, tiles_at_once=4, capacity=ALL, by_record=True)
    expected = kept.put_into(batch)
    count = kept.num_computed
    found = kept.put_into(dataclasses.replace(batch, tiles=np.zeros_like(batch.tiles)))
    np.testing.assert_array_equal(found.tiles, expected.tiles)
    assert kept.num_computed == count
    kept = CachedFeatures(Encoder(), form=FORM, tiles_at_once=4, capacity=ALL)
    kept.put_into(batch)
    assert not kept.put_into(dataclasses.replace(batch, tiles=np.zeros_like(batch.tiles))).tiles.any()


def test_loss_and_gradients_equal_those_of_computing_them_in_the_step(
    records: list[Record], chat: Chat, sage: tuple[nnx.GraphDef[Sage], Params], encoder: VitEncoder
) -> None:
    graphdef, params = sage
    objective = SftObjective(similarity_weight=0.5)
    trainable, frozen = partition(params, ("vit/", "fact_encoder/"))

    def loss_of(trainable: Params, batch: TreeBatch) -> jax.Array:
        return objective(merge(graphdef, {**frozen, **trainable}), batch, objective.normalizers(batch))[0]

    value = jax.jit(jax.value_and_grad(loss_of), compiler_options=QUICK)
    (plain,) = stream(records, chat, 1)
    given = kept_of(encoder, ALL).put_into(plain)
    assert given.tiles.shape == (4, 3, 4, 32) and given.tiles.dtype == np.float32 and plain.reference_tile_mask.any()
    for field in dataclasses.fields(TreeBatch):
        if field.name not in ("tiles", "reference_tiles"):
            assert getattr(given, field.name) is getattr(plain, field.name)
    loss, gradients = value(trainable, given)
    expected, expected_gradients = value(trainable, plain)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[path], atol=1e-5, err_msg=path)


def test_threads_that_ask_for_one_image_at_a_time_get_it_computed_once(batch: TreeBatch) -> None:
    copied = []

    class Slow:
        """Features that take a while to come from the device."""

        def __init__(self, features: np.ndarray) -> None:
            self._features = features

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            copied.append(1)
            time.sleep(0.05)
            return self._features

    encode = Encoder()
    kept = CachedFeatures(
        lambda tiles: Slow(encode(tiles)), form=FORM, tiles_at_once=100, capacity=ALL, images=("reference_tiles",)
    )
    waiting = [kept.begin(batch) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(each) for each in waiting]]
    for each in found:
        np.testing.assert_array_equal(each.reference_tiles, found[0].reference_tiles)
    assert len(encode.calls) == 1 and len(copied) == kept.num_computed
