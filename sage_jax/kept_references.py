"""ViT features of reference images, computed once for many test images."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sage_jax.axes import Float, UInt8
from sage_jax.batch import TreeBatch
from sage_jax.recently_used import RecentlyUsed

Encode = Callable[[UInt8[np.ndarray, "A H W 3"]], Float[np.ndarray, "A M E"]]


class KeptReferences:
    """Puts references into batches as their ViT features, each distinct image computed once while it is kept.

    Images are told apart by their pixels. The ViT always runs on the same number of images, so that it compiles once
    and an image's features do not depend on what else there is to compute.

    Args:
      encode: Features of tiles (`Responder.vit_features`).
      images_at_once: Images that the ViT runs on together.
      capacity: Bytes of features kept, the least recently used dropped beyond; what a batch needs comes on top.

    Attributes:
      num_computed: Images computed so far.
    """

    def __init__(self, encode: Encode, *, images_at_once: int, capacity: int) -> None:
        self._encode, self._images_at_once = encode, images_at_once
        self._kept = RecentlyUsed(capacity)
        self.num_computed = 0

    def put_into(self, batch: TreeBatch) -> TreeBatch:
        """The batch with features in place of the references' tiles; one that shows no reference is left as it is."""
        tiles, mask = np.asarray(batch.reference_tiles), np.asarray(batch.reference_tile_mask)
        keys = {int(row): _digest(tiles[row], mask[row]) for row in np.flatnonzero(mask.any(axis=1))}
        if not keys:
            return batch
        images = {key: tiles[row] for row, key in keys.items()}
        found = {key: kept for key in images if (kept := self._kept.find(key)) is not None}
        found |= self._computed({key: image for key, image in images.items() if key not in found})
        first = next(iter(found.values()))
        features = np.zeros((len(tiles), *first.shape), first.dtype)
        for row, key in keys.items():
            features[row] = found[key]
        return dataclasses.replace(batch, reference_tiles=features)

    def _computed(self, images: Mapping[bytes, np.ndarray]) -> dict[bytes, Any]:
        """Features of images, which are kept from now on."""
        keys, found = list(images), {}
        for start in range(0, len(keys), self._images_at_once):
            chunk = keys[start : start + self._images_at_once]
            shown = np.zeros((self._images_at_once, *images[chunk[0]].shape), np.uint8)
            for at, key in enumerate(chunk):
                shown[at] = images[key]
            features = self._encode(shown.reshape(-1, *shown.shape[2:]))
            by_image = features.reshape(*shown.shape[:2], *features.shape[1:])
            for at, key in enumerate(chunk):
                # A copy: a view would keep the features of the whole chunk in memory.
                found[key] = self._kept.get(key, by_image[at].copy)
        self.num_computed += len(keys)
        return found


def _digest(tiles: np.ndarray, mask: np.ndarray) -> bytes:
    return hashlib.blake2b(tiles.tobytes() + mask.tobytes(), digest_size=16).digest()
