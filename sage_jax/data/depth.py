"""Grey frames of 10, 12 and 14 bits that cameras store in files of 16: read by the depth that they really have."""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from sage_jax.axes import Int
from sage_jax.data.images import WIDE_MODES, ImageFault, encode_png, open_image, resolve_inside, upright_grey

DEPTHS: Final = (8, 10, 12, 14, 16)
"""Bits that a grey value of a wide file may really have."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TIFF_MAX_SAMPLE_VALUE: Final = 281


@dataclasses.dataclass(frozen=True)
class Depth:
    """The depth of a data set's wide images that do not state their own.

    Attributes:
      bits: One of `DEPTHS`; 16 where there is no such image.
      count: Such images.
      largest: The largest value in them.
      first: The first of them.
    """

    bits: int = 16
    count: int = 0
    largest: int = 0
    first: str = ""

    def sentence(self, root: Path | str) -> str:
        """What was found, as a sentence; "" where all is as it seems."""
        if not self.count or self.bits == 16:
            return ""
        return (
            f"{root}: {self.count} images of 16 bits, such as {self.first}, hold no value above {self.largest}: read as"
            f" of {self.bits} bits (data.bits=16 reads them as they are)"
        )


def find_depth(root: Path, names: Iterable[str]) -> Depth:
    """The depth of a data set's wide images, by the largest value in those that state none.

    Of other images the header alone is read. Those that cannot be read are told where they are read for their pixels.
    """
    largest, count, first = 0, 0, ""
    for name in names:
        try:
            path = resolve_inside(root, name)
            found = _largest_value(path)
        except (ImageFault, OSError):
            continue
        if found is not None:
            largest, count, first = max(largest, found), count + 1, first or name
    bits = next(bits for bits in DEPTHS if largest < 2**bits) if count else 16
    return Depth(bits, count, largest, first)


def stated_bits(content: bytes) -> int:
    """The depth that a file states itself: PNG's sBIT, TIFF's MaxSampleValue; 0 where it states none of `DEPTHS`."""
    if content.startswith(_PNG):
        return _png_bits(content)
    if content[:2] not in (b"II", b"MM"):
        return 0
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            value = getattr(image, "tag_v2", {}).get(_TIFF_MAX_SAMPLE_VALUE)
    except Exception:  # a damaged file, which is told where its pixels are read
        return 0
    value = value[0] if isinstance(value, tuple) and value else value
    return _depth_of(value.bit_length()) if isinstance(value, int) and value > 0 else 0


def at_depth(content: bytes, bits: int, *, name: str) -> bytes:
    """A file as it is, or, of one whose values have fewer bits than their 16, a PNG of 8 bits that is bright as meant.

    Args:
      content: The encoded file.
      bits: Depth of wide images that state none; 0 and 16 = all 16. Larger values than it holds become white.
      name: The file's name, for the message.

    Raises:
      ImageFault: It is wide and cannot be decoded.
    """
    if not _may_be_wide(content):
        return content
    bits = stated_bits(content) or bits
    if bits in (0, 16) or not _is_wide(content):
        return content
    values = upright_grey(content, name=name).astype(np.uint32)
    highest = 2**bits - 1
    return encode_png(((np.minimum(values, highest) * 255 + highest // 2) // highest).astype(np.uint8))


def wide_png(values: Int[np.ndarray, "H W"]) -> bytes:
    """PNG of 16 bits of grey values 0..65535."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values, dtype=np.uint16)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _may_be_wide(content: bytes) -> bool:
    """By the first bytes alone: a PNG of 16 bits, or a format whose depth stands elsewhere."""
    if content.startswith(_PNG):
        return content[24:25] == b"\x10"
    return content[:2] in (b"II", b"MM", b"P5")


def _is_wide(content: bytes) -> bool:
    try:
        with open_image(io.BytesIO(content)) as image:
            return image.mode in WIDE_MODES
    except Exception:  # no image, which is told where its pixels are read
        return False


def _largest_value(path: Path) -> int | None:
    """The largest value of a wide image that states no depth; None of any other, and of one that cannot be decoded."""
    with path.open("rb") as file:
        if not _may_be_wide(file.read(32)):
            return None
        file.seek(0)
        content = file.read()
    if not _is_wide(content) or stated_bits(content):
        return None
    return int(upright_grey(content, name=path.name).max(initial=0))


def _png_bits(content: bytes) -> int:
    """Significant bits of a grey PNG of 16 bits (its chunk sBIT, which stands before the pixels)."""
    position = len(_PNG)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"sBIT" and length >= 1:
            return _depth_of(content[position + 8])
        if kind == b"IDAT":
            break
        position += 12 + length
    return 0


def _depth_of(bits: int) -> int:
    return bits if bits in DEPTHS else 0
