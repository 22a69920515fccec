"""The look of an image that is inspected, beside that of its references, each of which is looked at once."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from PIL import Image

from sage_jax.axes import UInt8
from sage_jax.data.images import remembered_rgb, shrink
from sage_jax.data.records import Record, Reference
from sage_jax.metrics.image_look import Look, Patches, look_at, measured_side, patch_statistics
from sage_jax.process.recently_used import RecentlyUsed
from sage_jax.verdict import kind_of_part

_MOST_REFERENCES: Final = 8
"""References that an image must match; of more, the first."""

_KEPT: Final = RecentlyUsed(8 * 10**6)
"""Statistics of references, some thousands of them."""


def look_of(record: Record, shrink_px: int) -> Look:
    """The look of a record's image, compared with its references.

    Args:
      shrink_px: `data.shrink_px`: images of a data set are stored so, and others are measured so.
    """
    pixels = _shrunk(remembered_rgb(record.test_image, name=record.test_path, keep=False), shrink_px)
    references = [_patches_of(each, shrink_px) for each in record.references[:_MOST_REFERENCES]]
    return look_at(pixels, patches_of(pixels), references, kind_of_part(record.category))


def _shrunk(pixels: UInt8[np.ndarray, "H W 3"], shrink_px: int) -> UInt8[np.ndarray, "_ _ 3"]:
    return shrink(pixels, shrink_px) if 0 < shrink_px < max(pixels.shape[:2]) else pixels


def patches_of(pixels: UInt8[np.ndarray, "H W 3"]) -> Patches:
    """Statistics of the patches of an image of any size."""
    side = measured_side(*pixels.shape[:2])
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    return patch_statistics(pixels)


def _patches_of(reference: Reference, shrink_px: int) -> Patches:
    key = hashlib.sha256(reference.image).digest(), shrink_px

    def look() -> Patches:
        return patches_of(_shrunk(remembered_rgb(reference.image, name=reference.path, keep=False), shrink_px))

    return _KEPT.get(key, look)
