"""Images as they are given in Python: paths, bytes, PIL images and arrays, read into encoded files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sage_jax.axes import UInt8, UInt16
from sage_jax.data.depth import at_depth, wide_png
from sage_jax.data.images import WIDE_MODES, encode_png, remembered_rgb, rgb_of, upright_values
from sage_jax.data.records import Reference
from sage_jax.errors import UserError

ImageLike = (
    str
    | os.PathLike[str]
    | bytes
    | Image.Image
    | UInt8[np.ndarray, "H W 3"]
    | UInt8[np.ndarray, "H W"]
    | UInt16[np.ndarray, "H W"]
)
"""An image: a path, the content of a file, a PIL image, or an array: uint8, RGB or grey, or uint16, grey."""


def _as_list(images: ImageLike | Sequence[ImageLike] | None) -> list[ImageLike]:
    if images is None:
        return []
    if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray):
        return [images]
    return list(images)


def read_references(given: ImageLike | Sequence[ImageLike] | None, bits: int = 0) -> list[Reference]:
    """References as encoded images, read once for all images that are compared with them.

    Args:
      bits: As in `content_of`.

    Raises:
      UserError: One cannot be read.
    """
    named = [(reference, name_of(reference, "reference")) for reference in _as_list(given)]
    return [Reference(content_of(reference, name, bits), name) for reference, name in named]


def name_of(image: ImageLike, otherwise: str) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else otherwise


def content_of(image: ImageLike, name: str, bits: int = 0) -> bytes:
    """Content of an image's file, decoded once so that a fault is found here.

    Args:
      bits: Depth of an image of more than 8 bits that states none (`at_depth`).

    Raises:
      UserError: It cannot be read, is of another kind, or an array of another shape or dtype.
    """
    try:
        if isinstance(image, bytes):
            content = image
        elif isinstance(image, str | os.PathLike):
            content = Path(image).expanduser().read_bytes()
        elif isinstance(image, Image.Image):
            content = (
                wide_png(upright_values(image, name=name))
                if image.mode in WIDE_MODES
                else encode_png(rgb_of(image, name=name))
            )
        elif isinstance(image, np.ndarray):
            content = _encoded(image, name)
        else:
            raise UserError(f"{name}: a {type(image).__name__}: give a path, bytes, a PIL image or an array")
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, which no path has
        raise UserError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    content = at_depth(content, bits, name=name)
    remembered_rgb(content, name=name)
    return content


def _encoded(array: np.ndarray, name: str) -> bytes:
    if array.dtype == np.uint16 and array.ndim == 2:
        return wide_png(array)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise UserError(
            f"{name}: an array of {array.dtype} {array.shape}: give uint8 of (H, W, 3) or (H, W), or uint16 of (H, W)"
        )
    return encode_png(array)
