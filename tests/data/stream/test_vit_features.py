"""Tables of tiles, and features read from a mapped file."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np

from sage_jax.config import ModelConfig
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record, Reference
from sage_jax.data.stream.vit_features import StoredFeatures, tile_sums, tile_table, tiles_from
from sage_jax.data.trees.encode import TileForm
from sage_jax.data.trees.tiles import tile_image
from tests.support.stream_records import MODEL, encoded, make_record

TILED: ModelConfig = dataclasses.replace(MODEL, max_tiles=4)


def records() -> list[Record]:
    """One, two or three images a record, of different numbers of tiles; the last repeats images of the first."""
    rng = np.random.default_rng(5)
    shared = encoded(rng, 32, 64)
    found = [dataclasses.replace(make_record(i, rng), reference_image=shared) for i in range(3)]
    found[0] = dataclasses.replace(found[0], test_image=encoded(rng, 64, 64))
    found[1] = dataclasses.replace(found[1], reference_image=None)
    found[2] = dataclasses.replace(found[2], further_references=(Reference(found[0].test_image, "again.png"),))
    return found


def tiles_of(content: bytes) -> np.ndarray:
    return tile_image(decode_rgb(content, name="x"), tile_px=32, max_tiles=4).tiles


def test_equal_images_are_numbered_once_and_the_numbers_are_those_of_the_tiles() -> None:
    told: list[int] = []
    found = records()
    table = tile_table(found, model=TILED, advance=told.append)
    assert told == [1, 2, 3]
    np.testing.assert_array_equal(table.spans[2, 1], table.spans[0, 1])  # the shared reference
    np.testing.assert_array_equal(table.spans[2, 2], table.spans[0, 0])
    np.testing.assert_array_equal(table.spans[1, 1:], 0)
    distinct = {image.image for record in found for image in (Reference(record.test_image, ""), *record.references)}
    assert len(table.sources) == len(distinct) == 4
    assert table.num_tiles == sum(len(tiles_of(content)) for content in distinct)


def test_tiles_come_in_the_order_of_their_numbers_from_any_start() -> None:
    found = records()
    table = tile_table(found, model=TILED, advance=lambda done: None)
    every = np.concatenate(list(tiles_from(found, table, 0, model=TILED, num_threads=2)))
    assert len(every) == table.num_tiles
    for record, spans in zip(found, table.spans, strict=True):
        for image, (first, count) in zip((Reference(record.test_image, ""), *record.references), spans, strict=False):
            np.testing.assert_array_equal(every[first : first + count], tiles_of(image.image))
    for start in range(table.num_tiles):
        rest = np.concatenate(list(tiles_from(found, table, start, model=TILED, num_threads=1)))
        np.testing.assert_array_equal(rest, every[start:])
    assert list(tiles_from([], tile_table([], model=TILED, advance=print), 0, model=TILED, num_threads=1)) == []


def test_stored_features_are_those_of_the_records_chosen_and_survive_a_worker(tmp_path: Path) -> None:
    table = tile_table(records(), model=TILED, advance=lambda done: None)
    values = np.random.default_rng(0).random((table.num_tiles, 4, 6)).astype(np.float32)
    (tmp_path / "features").write_bytes(values.tobytes())
    (tmp_path / "features.crc32").write_bytes(tile_sums(values).tobytes())
    stored = StoredFeatures(tmp_path / "features", table.spans, TileForm((4, 6), np.dtype(np.float32)))
    for each in (stored, pickle.loads(pickle.dumps(stored))):
        first, *references = each.chosen([2]).of(0)
        start, count = table.spans[2, 0]
        np.testing.assert_array_equal(first, values[start : start + count])
        assert len(references) == 2 and len(each.of(1)) == 1
