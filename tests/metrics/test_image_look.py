"""The look of an image: light, sharpness, and statistics of patches that know nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sage_jax.metrics.image_look import look_at, measured_side, patch_statistics


def noise(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_light_and_sharpness_are_those_of_the_picture() -> None:
    flat = np.full((32, 32, 3), 51, np.uint8)
    patches = np.zeros((64, 12), np.float32)
    look = look_at(flat, patches)
    assert look.brightness == pytest.approx(0.2) and look.references == () and look.category == ""
    assert look_at(noise(32, 32), patches).sharpness > look.sharpness + 3.0
    assert look_at(noise(20, 50), patches).size == pytest.approx(np.log(50))


def test_statistics_are_means_of_colours_and_slopes_over_each_patch() -> None:
    picture = noise(64, 64)
    found = patch_statistics(picture)
    assert found.shape == (64, 12)
    row, column = 2, 5
    cell = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
    colours = picture[cell].astype(np.float64).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(found[8 * row + column, :3], colours.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found[8 * row + column, 9:], colours.std(0), rtol=1e-4)
    grey = picture.astype(np.float64).mean(-1) / 255.0
    for number, scale in enumerate((0.7, 1.4, 2.8)):
        across = np.abs(ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(grey, scale, axis=0), scale, order=1))
        expected = scale * across[cell].mean()
        assert found[8 * row + column, 3 + 2 * number] == pytest.approx(expected, rel=1e-3)


def test_a_defect_changes_the_patches_near_it_alone() -> None:
    picture = noise(128, 128)
    changed = picture.copy()
    changed[:16, :16] = 0
    apart = np.abs(patch_statistics(changed) - patch_statistics(picture)).max(axis=1).reshape(8, 8)
    assert apart[0, 0] > 0.1 and apart[3:, 3:].max() == 0.0


@pytest.mark.parametrize(
    ("height", "width", "side"), [(3, 9, 64), (40, 40, 64), (65, 201, 200), (128, 128, 128), (3000, 2000, 256)]
)
def test_images_are_measured_at_about_their_own_size(height: int, width: int, side: int) -> None:
    assert measured_side(height, width) == side
