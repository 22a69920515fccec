"""ViT features of a data set's images on disk: which tiles there are, and how they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grain
import numpy as np

from sage_jax.axes import Float, Int, UInt8
from sage_jax.config import ModelConfig
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record, Reference
from sage_jax.data.trees.encode import TileForm, count_tokens
from sage_jax.data.trees.tiles import tile_image, tokens_per_side
from sage_jax.errors import UserError

SUMS: Final = ".crc32"
"""Suffix of the file beside the features that has the CRC-32 of each tile, uint32[tiles]."""


class FeatureError(UserError):
    """Stored ViT features that are not as they were written; the next run computes them again."""


@dataclasses.dataclass(frozen=True)
class TileTable:
    """The distinct images of some records, their tiles numbered one image after the other.

    Attributes:
      spans: First tile and number of tiles of each record's test image (0) and references (from 1); zeros where it has
        none.
      sources: Record of each image, and 0 where it is the test image, else the number of the reference.
    """

    spans: Int[np.ndarray, "I R 2"]
    sources: Int[np.ndarray, "I 2"]

    @property
    def num_tiles(self) -> int:
        return int(self.spans.sum(axis=2).max(initial=0))


def tile_table(records: Sequence[Record], *, model: ModelConfig, advance: Callable[[int], None]) -> TileTable:
    """The tiles of records, each of which is read; images are told apart by their encoded bytes.

    Args:
      advance: Called with the number of records read so far.
    """
    spans: list[list[tuple[int, int]]] = []
    sources: list[tuple[int, int]] = []
    known: dict[bytes, tuple[int, int]] = {}
    num_tiles, per_tile = 0, tokens_per_side(model) ** 2
    for index in range(len(records)):
        spans.append([])
        for which, image in enumerate(_images(records[index])):
            key = hashlib.sha256(image.image).digest()
            if key not in known:
                known[key] = num_tiles, count_tokens(image.image, image.path, model) // per_tile
                num_tiles += known[key][1]
                sources.append((index, which))
            spans[-1].append(known[key])
        advance(index + 1)
    padded = np.zeros((len(spans), max(map(len, spans), default=1), 2), np.int64)
    for index, each in enumerate(spans):
        padded[index, : len(each)] = each
    return TileTable(padded, np.asarray(sources, np.int64).reshape(-1, 2))


def _images(record: Record) -> tuple[Reference, ...]:
    """The test image of a record, then its references."""
    return Reference(record.test_image, record.test_path), *record.references


def tiles_from(
    records: Sequence[Record], table: TileTable, start: int, *, model: ModelConfig, num_threads: int
) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
    """The tiles of a table's images from tile `start` on, image by image, decoded ahead."""
    firsts = np.array([table.spans[index, which, 0] for index, which in table.sources], np.int64)
    first = int(np.searchsorted(firsts, start, side="right")) - 1

    def decode(image: int) -> np.ndarray:
        index, which = (int(number) for number in table.sources[image])
        shown = _images(records[index])[which]
        pixels = decode_rgb(shown.image, name=shown.path)
        tiles = tile_image(pixels, tile_px=model.vit.tile_px, max_tiles=model.max_tiles).tiles
        return tiles[max(start - int(firsts[image]), 0) :]

    if first < 0:
        return iter(())
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return iter(grain.MapDataset.range(first, len(firsts)).map(decode).to_iter_dataset(options))


def tile_sums(tiles: Float[np.ndarray, "A M E"]) -> Int[np.ndarray, " A"]:
    """CRC-32 of each tile's bytes, uint32."""
    return np.array([zlib.crc32(np.ascontiguousarray(tile).tobytes()) for tile in tiles], np.uint32)


class StoredFeatures:
    """ViT features of records' images, read from a mapped file when asked for; safe to hand to worker processes.

    Each tile is read with its checksum.

    Args:
      path: Features of all tiles, one after the other; their checksums are beside it.
      spans: Of the records, as in `TileTable`.
      form: Of a tile.
    """

    def __init__(self, path: Path, spans: Int[np.ndarray, "I R 2"], form: TileForm) -> None:
        self.path, self.spans, self.form = path, spans, form
        self._tiles: np.ndarray | None = None
        self._sums: np.ndarray | None = None

    def __reduce__(self) -> tuple[type[StoredFeatures], tuple[Any, ...]]:
        return StoredFeatures, (self.path, self.spans, self.form)  # a worker process maps the file itself

    def chosen(self, indices: Sequence[int]) -> StoredFeatures:
        """Those of some records, by their new index."""
        return StoredFeatures(self.path, self.spans[np.asarray(indices, np.int64)], self.form)

    def of(self, index: int) -> list[Float[np.ndarray, "T M E"]]:
        """Features of a record's test image, then of each of its references.

        Raises:
          FeatureError: They are not as they were written.
        """
        if self._tiles is None or self._sums is None:
            self._tiles = np.memmap(self.path, self.form.dtype, mode="r").reshape(-1, *self.form.shape)
            self._sums = np.fromfile(self.path.with_suffix(SUMS), np.uint32)
        found = []
        for first, count in self.spans[index]:
            tiles = self._tiles[first : first + count]
            if not np.array_equal(tile_sums(tiles), self._sums[first : first + count]):
                raise FeatureError(
                    f"{self.path}: damaged since this run began to read it: run the same command again, which "
                    "computes the damaged ViT features anew"
                )
            found += [tiles] if count else []
        return found
