"""Pictures of inspections as browsers show them, whatever the file was: parts, references, maps to lay over."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Final, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from sage_jax.corrections.maps import kept_map
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.images import decode_rgb, shrink

_KEPT: Final = 128
_LARGEST_PX: Final = 2048
_AS_PNG_PX: Final = 512
_JPEG_QUALITY: Final = 92


class Picture(NamedTuple):
    """An encoded picture and its media type."""

    content: bytes
    media_type: str


class PictureMaker:
    """Makes pictures of a store's images; the last ones are kept.

    Args:
      store: The store.
    """

    def __init__(self, store: CorrectionStore) -> None:
        self._store = store
        self._pictures = functools.lru_cache(_KEPT)(self._make)
        self.size = functools.lru_cache(16 * _KEPT)(self._size)

    def image(self, digest: str, longest_px: int = 0) -> Picture:
        """A part or a reference, at most so long on its longer side; 0 = as large as a page shows.

        Raises:
          UserError: There is no such image, or its file is damaged.
        """
        return self._pictures(digest, min(longest_px, _LARGEST_PX) if longest_px > 0 else _LARGEST_PX)

    def map(self, image: str, references: Sequence[str], model: str) -> Picture | None:
        """The map of an inspection as colours to lay over its image, the stronger the less transparent.

        Args:
          image, references: Digests.
          model: Revision of the model.

        Raises:
          UserError: Its file is damaged.
        """
        values = kept_map(self._store, image, references, model)
        if values is None:
            return None
        coloured = np.asarray(matplotlib.colormaps["inferno"](values.astype(np.float32) / 255.0))
        coloured[..., 3] = 0.15 + 0.65 * values / 255.0
        buffer = io.BytesIO()
        Image.fromarray((coloured * 255.0).round().astype(np.uint8), "RGBA").save(buffer, "PNG", compress_level=3)
        return Picture(buffer.getvalue(), "image/png")

    def _make(self, digest: str, longest_px: int) -> Picture:
        pixels = shrink(decode_rgb(self._store.image(digest), name="image"), longest_px)
        buffer = io.BytesIO()
        if max(pixels.shape) <= _AS_PNG_PX:
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
            return Picture(buffer.getvalue(), "image/png")
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return Picture(buffer.getvalue(), "image/jpeg")

    def _size(self, digest: str) -> tuple[int, int]:
        """Width and height of an image, px, upright."""
        height, width = decode_rgb(self._store.image(digest), name="image").shape[:2]
        return width, height
