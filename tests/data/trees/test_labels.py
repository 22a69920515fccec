"""Labels of image tokens: how much is anomalous, and which defect lies there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_jax.config import ModelConfig, VitConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import NOWHERE, Box, Defect, Record
from sage_jax.data.trees.labels import decode_labels
from sage_jax.data.trees.tiles import TiledImage, box_cover, token_labels
from tests.support.stream_records import make_record

MODEL = ModelConfig(vit=VitConfig(tile_px=16, patch_px=4, num_heads=2, embed_dim=8, mlp_dim=8), downsample=1)
"""4 x 4 tokens of 4 px."""


def record_of(boxes: list[Box], mask: np.ndarray | None, anomalous: bool | None = True) -> Record:
    return dataclasses.replace(
        make_record(0, np.random.default_rng(0)),
        test_image=encode_png(np.full((16, 16, 3), 90, np.uint8)),
        mask=None if mask is None else encode_png(mask),
        anomalous=anomalous,
        defects=tuple(Defect(f"kind {index}", box) for index, box in enumerate(boxes)),
    )


@given(
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    side=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_box_covers_what_its_mask_covers(
    size: tuple[int, int], grid: tuple[int, int], side: int, data: st.DataObject
) -> None:
    (width, height), (columns, rows) = size, grid
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    mask = np.zeros((height, width), np.bool_)
    mask[box.top : box.bottom, box.left : box.right] = True
    count = columns * rows + (columns * rows > 1)
    tiled = TiledImage(np.zeros((count, 0, 0, 3), np.uint8), columns, rows, columns * rows > 1)
    expected = token_labels(mask, tiled, tokens_per_side=side)
    np.testing.assert_allclose(box_cover(box, width, height, tiled, tokens_per_side=side), expected, atol=1e-6)


def test_a_token_shows_the_defect_that_covers_most_of_it_where_a_tenth_of_it_is_anomalous() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[0:4, 0:8] = True  # both boxes' defects, side by side
    mask[8, 8] = True  # a sixteenth of its token
    labels = decode_labels(record_of([Box(0, 0, 5, 4), Box(5, 0, 12, 9)], mask), model=MODEL)
    assert labels.anomalous is not None
    assert labels.defects.reshape(4, 4)[0].tolist() == [0, 1, -1, -1]
    assert (labels.defects.reshape(4, 4)[1:] == -1).all()


def test_without_a_mask_the_box_tells_alone() -> None:
    labels = decode_labels(record_of([Box(4, 4, 8, 8), Box(8, 4, 9, 5)], None), model=MODEL)
    assert labels.anomalous is None
    assert np.flatnonzero(labels.defects == 0).tolist() == [5]
    assert not (labels.defects == 1).any()  # one pixel of sixteen


@pytest.mark.parametrize("anomalous", [False, True, None])
def test_an_image_without_defects_names_none(anomalous: bool | None) -> None:
    labels = decode_labels(record_of([], None, anomalous), model=MODEL)
    assert (labels.defects == -1).all() and labels.defects.shape == (16,)
    assert (labels.anomalous is not None) == (anomalous is False)


def test_a_defect_of_unknown_place_shows_on_no_token() -> None:
    labels = decode_labels(record_of([NOWHERE], None), model=MODEL)
    assert labels.anomalous is None and (labels.defects == -1).all()
