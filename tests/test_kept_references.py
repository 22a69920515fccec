"""References computed once: what is counted is ViT passes, what must not change is the answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_sage import random_batch

from sage_jax.batch import TreeBatch
from sage_jax.kept_references import KeptReferences

IMAGE_BYTES = 2 * 4 * 3 * 8  # two tiles of four tokens, three numbers each, float64


class Encoder:
    """Features that only the tile's own pixels decide, and the number of tiles of each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls.append(len(tiles))
        return tiles.reshape(len(tiles), -1).astype(np.float64)[:, :12].reshape(-1, 4, 3)


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
    kept = KeptReferences(encode, images_at_once=2, capacity=10 * IMAGE_BYTES)
    given = with_references(batch, [5] * 6)
    first, *_, found = (kept.put_into(given) for _ in range(3))
    assert first.reference_tiles.shape == (6, 2, 4, 3)
    assert encode.calls == [4] and kept.num_computed == 1  # two images of two tiles, one of them filling up
    for row in (0, 2, 4):
        np.testing.assert_array_equal(found.reference_tiles[row], Encoder()(given.reference_tiles[row]))
    assert not found.reference_tiles[[1, 3, 5]].any()  # masked: they show none


def test_every_call_of_the_vit_has_the_same_number_of_tiles(batch: TreeBatch) -> None:
    encode = Encoder()
    kept = KeptReferences(encode, images_at_once=2, capacity=10 * IMAGE_BYTES)
    for images in ([0, 0, 1, 0, 2, 0], [1, 0, 3, 0, 4, 0], [4, 0, 3, 0, 2, 0]):
        found = kept.put_into(with_references(batch, images)).reference_tiles
        shown = with_references(batch, images).reference_tiles
        for row in (0, 2, 4):
            np.testing.assert_array_equal(found[row], Encoder()(shown[row]))
    assert set(encode.calls) == {4} and kept.num_computed == 5


def test_the_least_recently_used_reference_is_dropped_beyond_the_capacity(batch: TreeBatch) -> None:
    kept = KeptReferences(Encoder(), images_at_once=1, capacity=2 * IMAGE_BYTES)
    counts = []
    for image in (0, 1, 0, 2, 0, 1):  # 2 drops 1, which was not used since
        kept.put_into(with_references(batch, [image] * 6))
        counts.append(kept.num_computed)
    assert counts == [1, 2, 2, 3, 3, 4]
    none = KeptReferences(Encoder(), images_at_once=1, capacity=0)
    none.put_into(with_references(batch, [1] * 6))
    none.put_into(with_references(batch, [1] * 6))
    assert none.num_computed == 2  # once a batch even so


def test_a_batch_that_shows_no_reference_is_left_as_it_is(batch: TreeBatch) -> None:
    kept = KeptReferences(Encoder(), images_at_once=1, capacity=IMAGE_BYTES)
    hidden = dataclasses.replace(batch, reference_tile_mask=np.zeros_like(batch.reference_tile_mask))
    bare = dataclasses.replace(
        batch, reference_tiles=batch.reference_tiles[:, :0], reference_tile_mask=batch.reference_tile_mask[:, :0]
    )
    assert kept.put_into(hidden) is hidden and kept.put_into(bare) is bare and kept.num_computed == 0


def test_the_same_tiles_under_another_mask_are_another_image(batch: TreeBatch) -> None:
    kept = KeptReferences(Encoder(), images_at_once=1, capacity=10 * IMAGE_BYTES)
    same = with_references(batch, [0] * 6)
    kept.put_into(same)
    mask = np.array(same.reference_tile_mask)
    mask[0] = [True, False]
    kept.put_into(dataclasses.replace(same, reference_tile_mask=mask))
    assert kept.num_computed == 2
