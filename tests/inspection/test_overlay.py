"""Pictures of an inspection: sizes, colours of the map, frames of boxes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sage_jax.inspection.overlay import overlay, picture


def random_image(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("height, width", [(40, 60), (1, 1), (256, 300), (700, 2100), (3, 900)])
def test_pictures_are_large_enough_to_see_and_small_enough_to_send(height: int, width: int):
    shown = Image.open(io.BytesIO(picture(random_image(0, height, width))))
    assert max(shown.size) <= 1024
    assert min(shown.size) >= 256 or max(shown.size) == 1024
    result = overlay(random_image(0, height, width), np.zeros((height, width), np.float32))
    assert result.shape == (shown.height + 22, shown.width, 3) and result.dtype == np.uint8


def test_small_images_keep_their_pixels():
    image = random_image(1, 64, 64)
    shown = np.asarray(Image.open(io.BytesIO(picture(image))))
    np.testing.assert_array_equal(shown, image.repeat(4, axis=0).repeat(4, axis=1))


def test_overlay_brightens_with_the_map_and_greys_the_rest():
    image = np.full((64, 64, 3), (40, 60, 50), np.uint8)
    values = np.zeros((64, 64), np.float32)
    values[:, 32:] = 1.0
    result = overlay(image, values)[:256].astype(int)
    normal, anomalous = result[100, 20], result[100, 230]
    assert normal.max() - normal.min() <= 3
    assert anomalous.sum() > normal.sum() + 200
    levels = [
        overlay(image, np.full((64, 64), level, np.float32))[100, 100].sum(dtype=int) for level in (0.3, 0.6, 0.9)
    ]
    assert levels == sorted(levels) and len(set(levels)) == 3


def test_overlay_frames_its_boxes_and_changes_nothing_far_from_them():
    image, values = random_image(2, 64, 64), np.zeros((64, 64), np.float32)
    plain, framed = overlay(image, values), overlay(image, values, [(16, 20, 32, 40, 0.9)])
    rows, columns, _ = np.nonzero(plain != framed)
    assert (rows.min(), rows.max() + 1) == pytest.approx((80, 160), abs=3)
    assert (columns.min(), columns.max() + 1) == pytest.approx((64, 128), abs=3)
    assert (plain[85:155, 70:122] == framed[85:155, 70:122]).all()


def test_overlay_of_a_wrong_map_is_an_error():
    with pytest.raises(ValueError, match="resize the map"):
        overlay(random_image(0), np.zeros((40, 61), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        overlay(random_image(0), np.full((40, 60), np.nan, np.float32))
