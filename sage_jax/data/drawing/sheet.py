"""A sheet of the defects that were drawn, to be looked at before anything is trained on them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from sage_jax.data.drawing.draw import DRAWN
from sage_jax.data.images import decode_mask, decode_rgb
from sage_jax.data.records import Record

_SIDE_PX: Final = 192
_CAPTION_PX: Final = 18
_COLUMNS: Final = 6
_MOST: Final = 24
_OUTLINE: Final = (255, 0, 200)


def contact_sheet(records: Sequence[Record]) -> bytes | None:
    """PNG of the first drawn defects of a training split, by kind in turn: outlined, with kind and file below.

    None where none were drawn. At most 24 are shown.
    """
    by_kind: dict[str, list[Record]] = {}
    seen: set[str] = set()
    for index in range(len(records)):
        record = records[index]
        if DRAWN in record.image_id and record.image_id not in seen:
            seen.add(record.image_id)
            by_kind.setdefault(record.defects[0].type, []).append(record)
            if len(seen) > 10 * _MOST:
                break
    rounds = itertools.zip_longest(*by_kind.values())
    shown = list(itertools.islice((record for each in rounds for record in each if record is not None), _MOST))
    if not shown:
        return None
    rows, height = -(-len(shown) // _COLUMNS), _SIDE_PX + _CAPTION_PX
    sheet = Image.new("RGB", (_COLUMNS * _SIDE_PX, rows * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, record in enumerate(shown):
        left, top = number % _COLUMNS * _SIDE_PX, number // _COLUMNS * height
        sheet.paste(_outlined(record), (left, top))
        kinds = ", ".join(defect.type for defect in record.defects)
        name = record.test_path.rpartition("/")[2].encode("ascii", "replace").decode()
        pen.text((left + 3, top + _SIDE_PX + 2), f"{kinds}: {name}"[:34], fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _outlined(record: Record) -> Image.Image:
    """The image on a square, the defects outlined."""
    pixels = decode_rgb(record.test_image, name=record.test_path)
    image = Image.fromarray(pixels)
    scale = (_SIDE_PX - 2) / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    mask = decode_mask(record.mask or b"", name="mask of a drawn defect")
    marked = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
    near, wide = (np.asarray(ndimage.binary_dilation(marked, iterations=number), np.bool_) for number in (2, 3))
    resized = np.array(image.resize(size, Image.Resampling.BILINEAR))
    resized[wide & ~near] = _OUTLINE
    return Image.fromarray(resized)
