"""Tiling: grid, tiles, token labels and maps against independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from sage_jax.data.images import ImageFault, decode_rgb
from sage_jax.data.trees.tiles import (
    TiledImage,
    image_size,
    map_from_tokens,
    num_tiles,
    tile_grid,
    tile_image,
    token_labels,
)


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blank(columns: int, rows: int, thumbnail: bool) -> TiledImage:
    tiles = np.zeros((columns * rows + thumbnail, 4, 4, 3), np.uint8)
    return TiledImage(tiles, columns, rows, thumbnail)


@given(width=st.integers(1, 2000), height=st.integers(1, 2000), max_tiles=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_grid_is_internvls(width: int, height: int, max_tiles: int) -> None:
    expected = get_optimal_tiled_canvas((height, width), (448, 448), 1, max_tiles)
    assert tile_grid(width, height, tile_px=448, max_tiles=max_tiles) == tuple(expected)


def test_ties_go_to_the_larger_grid_only_for_large_images() -> None:
    small = tile_grid(200, 100, tile_px=100, max_tiles=8)
    # 4 x 2 tiles of 100 px have 80,000 px; half of that is the border.
    assert small == (2, 1)
    assert tile_grid(282, 141, tile_px=100, max_tiles=8) == (2, 1)
    assert tile_grid(284, 142, tile_px=100, max_tiles=8) == (4, 2)


@given(width=st.integers(1, 40), height=st.integers(1, 40), max_tiles=st.integers(1, 6), thumbnail=st.booleans())
@settings(max_examples=60, deadline=None)
def test_tile_count_and_shapes(width: int, height: int, max_tiles: int, thumbnail: bool) -> None:
    tiled = tile_image(random_image(height, width), tile_px=8, max_tiles=max_tiles, thumbnail=thumbnail)
    assert tiled.tiles.dtype == np.uint8
    assert tiled.has_thumbnail == (thumbnail and tiled.columns * tiled.rows > 1)
    expected = num_tiles(width, height, tile_px=8, max_tiles=max_tiles, thumbnail=thumbnail)
    assert tiled.tiles.shape == (expected, 8, 8, 3)
    assert expected <= max_tiles + 1


def test_tiles_are_crops_of_the_stretched_image_row_by_row() -> None:
    image = random_image(50, 77)
    tiled = tile_image(image, tile_px=16, max_tiles=6)
    assert (tiled.columns, tiled.rows, tiled.has_thumbnail) == (3, 2, True)
    stretched = Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC)
    for index in range(6):
        left, top = index % 3 * 16, index // 3 * 16
        np.testing.assert_array_equal(tiled.tiles[index], np.asarray(stretched.crop((left, top, left + 16, top + 16))))
    small = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tiled.tiles[6], np.asarray(small))


def test_one_tile_of_its_own_size_is_the_image() -> None:
    image = random_image(32, 32)
    tiled = tile_image(image, tile_px=32, max_tiles=1)
    np.testing.assert_array_equal(tiled.tiles, image[None])
    assert tile_image(random_image(10, 90), tile_px=32, max_tiles=1).tiles.shape == (1, 32, 32, 3)


@given(
    height=st.integers(3, 30),
    width=st.integers(3, 30),
    columns=st.integers(1, 3),
    rows=st.integers(1, 3),
    side=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_token_labels_are_the_covered_area(
    height: int, width: int, columns: int, rows: int, side: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    tiled = blank(columns, rows, columns * rows > 1)
    labels = token_labels(mask, tiled, tokens_per_side=side)

    def share(grid_rows: int, grid_columns: int, row: int, column: int) -> float:
        # On a raster that pixel and token borders both fall on, shares are counts.
        fine = np.repeat(np.repeat(mask, grid_rows, axis=0), grid_columns, axis=1)
        return fine[row * height : (row + 1) * height, column * width : (column + 1) * width].mean()

    expected = []
    for tile in range(columns * rows):
        for token in range(side**2):
            row, column = tile // columns * side + token // side, tile % columns * side + token % side
            expected.append(share(rows * side, columns * side, row, column))
    if tiled.has_thumbnail:
        expected += [share(side, side, token // side, token % side) for token in range(side**2)]
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels, expected, atol=1e-6)


def test_map_is_bilinear_between_token_centres() -> None:
    rng = np.random.default_rng(1)
    columns, rows, side, height, width = 3, 2, 4, 61, 83
    tiled = blank(columns, rows, True)
    values = rng.standard_normal((columns * rows + 1) * side**2).astype(np.float32)
    found = map_from_tokens(values, tiled, tokens_per_side=side, height=height, width=width)
    grid = np.zeros((rows * side, columns * side))
    for tile in range(columns * rows):
        top, left = tile // columns * side, tile % columns * side
        grid[top : top + side, left : left + side] = values[tile * side**2 :][: side**2].reshape(side, side)
    down = (np.arange(height) + 0.5) / height * rows * side - 0.5
    across = (np.arange(width) + 0.5) / width * columns * side - 0.5
    half = np.stack([np.interp(across, np.arange(columns * side), line) for line in grid])
    expected = np.stack([np.interp(down, np.arange(rows * side), line) for line in half.T], axis=1)
    assert found.dtype == np.float32 and found.shape == (height, width)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_map_refuses_a_wrong_number_of_values() -> None:
    with pytest.raises(ValueError, match=r"\(27,\) values for 7 tiles of 2\^2 tokens; give \(28,\)"):
        map_from_tokens(np.zeros(27, np.float32), blank(3, 2, True), tokens_per_side=2, height=9, width=9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_size_is_the_decoded_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(random_image(20, 33)).save(buffer, "JPEG", exif=exif)
    height, width = decode_rgb(buffer.getvalue(), name="x.jpg").shape[:2]
    assert image_size(buffer.getvalue(), name="x.jpg") == (width, height)


def test_unreadable_header_is_a_named_fault() -> None:
    with pytest.raises(ImageFault, match=r"broken\.png"):
        image_size(b"no image", name="broken.png")
