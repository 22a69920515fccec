"""The contact sheet of drawn defects."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from sage_jax.data.drawing.draw import DRAWN
from sage_jax.data.drawing.sheet import contact_sheet
from sage_jax.data.images import encode_png
from sage_jax.data.records import Box, Defect, Record
from tests.support.stream_records import make_record

OUTLINE = (255, 0, 200)


def drawn(index: int, kind: str, *, side: int = 96) -> Record:
    mask = np.zeros((side, side), np.bool_)
    mask[20:40, 30:60] = True
    grey = np.full((side, side, 3), 128, np.uint8)
    record = make_record(index, np.random.default_rng(index))
    return dataclasses.replace(
        record,
        image_id=f"i{index}{DRAWN}0",
        test_image=encode_png(grey),
        mask=encode_png(mask),
        defects=(Defect(kind, Box(30, 20, 60, 40)),),
        test_path=f"parts/{index}.png{DRAWN}0",
    )


def pixels(sheet: bytes | None) -> np.ndarray:
    assert sheet is not None
    return np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))


def test_without_drawn_defects_there_is_no_sheet() -> None:
    assert contact_sheet([make_record(0, np.random.default_rng(0))]) is None
    assert contact_sheet([]) is None


def test_the_outline_runs_about_the_mask_and_hides_none_of_it() -> None:
    tile = pixels(contact_sheet([drawn(0, "dent")]))[:190, :190]
    marked = (tile == OUTLINE).all(axis=-1)
    rows, columns = np.nonzero(marked)
    scale = 190 / 96
    assert abs(rows.min() - (20 * scale - 3)) <= 1 and abs(rows.max() - (40 * scale + 2)) <= 1
    assert abs(columns.min() - (30 * scale - 3)) <= 1 and abs(columns.max() - (60 * scale + 2)) <= 1
    inside = marked[int(20 * scale) + 1 : int(40 * scale) - 1, int(30 * scale) + 1 : int(60 * scale) - 1]
    assert not inside.any()


def test_kinds_come_in_turn_each_image_once_and_no_more_than_24() -> None:
    many = [drawn(index, "dent") for index in range(40)] + [drawn(40 + index, "crack") for index in range(2)]
    sheet = pixels(contact_sheet([*many, *many]))
    assert sheet.shape == (4 * 210, 6 * 192, 3)  # 24 of 42, six a row
    one = pixels(contact_sheet([drawn(0, "dent"), drawn(1, "dent"), drawn(2, "crack")]))
    captions = [one[192:210, left : left + 40] for left in (0, 192, 384)]
    assert one.shape == (210, 6 * 192, 3)
    assert not np.array_equal(captions[0], captions[1]) and np.array_equal(captions[0][:, :30], captions[2][:, :30])
