"""ViT features of the images of batches, each distinct image computed once while it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from sage_jax.axes import Float, UInt8
from sage_jax.batch import TreeBatch
from sage_jax.data.trees.encode import TileForm
from sage_jax.process.recently_used import RecentlyUsed

Encode = Callable[[UInt8[np.ndarray, "A H W 3"]], Any]
"""Features (A, M, E) of tiles, as an array that may still be under way on the devices."""

Images = Literal["tiles", "reference_tiles"]


class CachedFeatures:
    """Puts images into batches as their ViT features, each distinct image computed once while it is kept.

    Threads may share it. Images are told apart by their tiles' pixels. The ViT always runs on the same number of tiles,
    so that it compiles once and an image's features do not depend on what else there is to compute. Tiles that only pad
    are not computed.

    Args:
      encode: Features of tiles (`VitEncoder`, or `Responder.vit_features`).
      form: Of a tile's features.
      tiles_at_once: Tiles that the ViT runs on together.
      capacity: Bytes of features kept, the least recently used image dropped beyond; what batches need comes on top.
      images: Which images of a batch.
      by_record: Whether `record_index` names the same images in every batch, whose pixels are then looked at once.

    Attributes:
      num_computed: Images computed so far.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        form: TileForm,
        tiles_at_once: int,
        capacity: int,
        images: tuple[Images, ...] = ("tiles", "reference_tiles"),
        by_record: bool = False,
    ) -> None:
        self._encode, self._form, self._tiles_at_once = encode, form, tiles_at_once
        self._images, self._by_record = images, by_record
        self._kept = RecentlyUsed(capacity)
        self._known: dict[tuple[str, int], bytes] = {}
        self.num_computed = 0

    def put_into(self, batch: TreeBatch) -> TreeBatch:
        """The batch with features in place of tiles; zeros where there is no tile."""
        return self.begin(batch)()

    def begin(self, batch: TreeBatch) -> Callable[[], TreeBatch]:
        """Begins to compute what `put_into` gives, and returns at once; what it returns waits for it."""
        shown: dict[tuple[Images, int], bytes] = {
            (name, int(row)): self._key(batch, name, int(row))
            for name in self._images
            for row in np.flatnonzero(_mask(batch, name).any(axis=1))
        }
        found = {key: kept for key in dict.fromkeys(shown.values()) if (kept := self._kept.find(key)) is not None}
        found |= self._begun({key: _image(batch, *where) for where, key in shown.items() if key not in found})
        return lambda: self._filled(batch, {where: found[key] for where, key in shown.items()})

    def _key(self, batch: TreeBatch, name: Images, row: int) -> bytes:
        """Digest of an image, which its record stands for once it is known."""
        where = name, int(batch.record_index[row])
        if self._by_record and where in self._known:
            return self._known[where]
        key = hashlib.blake2b(_image(batch, name, row).data, digest_size=16).digest()
        if self._by_record:
            self._known[where] = key
        return key

    def _begun(self, images: Mapping[bytes, np.ndarray]) -> dict[bytes, _Features]:
        """Features of images, under way, which are kept from now on."""
        if not images:
            return {}
        size, tiles = self._tiles_at_once, np.concatenate(list(images.values()))
        short = -len(tiles) % size
        tiles = np.concatenate([tiles, np.zeros((short, *tiles.shape[1:]), tiles.dtype)])
        chunks = [self._encode(tiles[start : start + size]) for start in range(0, len(tiles), size)]
        found, start = {}, 0
        for key, image in images.items():
            end = start + len(image)
            parts = [
                (chunks[at], slice(max(start - at * size, 0), min(end - at * size, size)))
                for at in range(start // size, -(-end // size))
            ]
            features = _Features(parts, len(image) * self._form.nbytes)
            found[key] = self._kept.get(key, lambda features=features: features)
            start = end
        self.num_computed += len(images)
        return found

    def _filled(self, batch: TreeBatch, found: Mapping[tuple[Images, int], _Features]) -> TreeBatch:
        filled = {}
        for name in self._images:
            rows, num_tiles = getattr(batch, name).shape[:2]
            if num_tiles:
                filled[name] = np.zeros((rows, num_tiles, *self._form.shape), self._form.dtype)
        for (name, row), features in found.items():
            filled[name][row, _mask(batch, name)[row]] = features.value()
        return dataclasses.replace(batch, **filled)


class _Features:
    """Features of an image, computed or under way.

    Args:
      parts: Results of the ViT, and the place of the image's tiles in each.
      nbytes: Memory of the features, once computed.
    """

    def __init__(self, parts: list[tuple[Any, slice]], nbytes: int) -> None:
        self._parts, self.nbytes = parts, nbytes
        self._value: np.ndarray | None = None
        self._lock = threading.Lock()

    def value(self) -> Float[np.ndarray, "T M E"]:
        """The features in host memory, once they are there."""
        with self._lock:
            if self._value is None:
                # A copy: a view would keep all that was computed together in memory.
                self._value = np.concatenate([np.asarray(features)[rows] for features, rows in self._parts])
                self._parts = []
            return self._value


def _mask(batch: TreeBatch, name: Images) -> np.ndarray:
    return np.asarray(batch.tile_mask if name == "tiles" else batch.reference_tile_mask)


def _image(batch: TreeBatch, name: Images, row: int) -> UInt8[np.ndarray, "T H W 3"]:
    """A copy of an image's tiles, those that only pad left out."""
    return np.asarray(getattr(batch, name))[row, _mask(batch, name)[row]]
