"""Dynamic tiling of an image (InternVL), and the way from pixels to image tokens and back."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from sage_jax.axes import Bool, Float, UInt8
from sage_jax.config import ModelConfig
from sage_jax.data.images import ImageFault, open_image
from sage_jax.data.records import Box

_SIDEWAYS: Final = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclasses.dataclass(frozen=True)
class TiledImage:
    """An image cut into square tiles.

    Attributes:
      tiles: The tiles row by row, then the thumbnail if there is one.
      columns: Tiles side by side.
      rows: Tiles one above the other.
      has_thumbnail: Whether the last tile is the whole image.
    """

    tiles: UInt8[np.ndarray, "T H W 3"]
    columns: int
    rows: int
    has_thumbnail: bool


def tile_grid(width: int, height: int, *, tile_px: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the tile grid nearest to the image in aspect ratio.

    Among equally near grids the largest wins whose area is below twice the image's; failing that, the smallest.

        64 x 64, up to 6 tiles of 64 px   -> (1, 1)
        200 x 100                         -> (2, 1)
        600 x 300, up to 12 tiles         -> (4, 2)

    Source: InternVL, dynamic resolution.

    Args:
      width: Of the image, px.
      height: Of the image, px.
      tile_px: Side of a tile.
      max_tiles: Most tiles, 1 or more.

    Returns:
      (columns, rows), with 1 <= columns * rows <= max_tiles.
    """
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    grids.sort(key=lambda grid: (grid[0] * grid[1], grid[0]))
    best, smallest = (1, 1), float("inf")
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        if distance < smallest:
            best, smallest = (columns, rows), distance
        elif distance == smallest and width * height > 0.5 * tile_px**2 * columns * rows:
            best = (columns, rows)
    return best


def num_tiles(width: int, height: int, *, tile_px: int, max_tiles: int, thumbnail: bool = True) -> int:
    """Tiles of an image of this size, the thumbnail counted."""
    columns, rows = tile_grid(width, height, tile_px=tile_px, max_tiles=max_tiles)
    return columns * rows + int(thumbnail and columns * rows > 1)


def image_size(data: bytes, *, name: str) -> tuple[int, int]:
    """Width and height of an encoded image as `decode_rgb` gives it, px, read from its header.

    Raises:
      ImageFault: The header cannot be read.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
    except Exception as error:  # decoders throw whatever their format makes them
        raise ImageFault(name, f"cannot be read ({error})", "save it again as PNG or JPEG") from None
    return (height, width) if turned else (width, height)


def tile_image(
    image: UInt8[np.ndarray, "H W 3"], *, tile_px: int, max_tiles: int, thumbnail: bool = True
) -> TiledImage:
    """Cuts an image into tiles of the nearest grid, stretched bicubically to fill it.

    Args:
      image: RGB, any size.
      tile_px: Side of a tile.
      max_tiles: Most tiles, thumbnail not counted; 1 makes the whole image one tile.
      thumbnail: Appends the whole image as a tile when there is more than one.

    Returns:
      Tiles row by row, thumbnail last.
    """
    height, width = image.shape[:2]
    columns, rows = tile_grid(width, height, tile_px=tile_px, max_tiles=max_tiles)
    picture = Image.fromarray(image)
    stretched = np.asarray(picture.resize((columns * tile_px, rows * tile_px), Image.Resampling.BICUBIC))
    tiles = stretched.reshape(rows, tile_px, columns, tile_px, 3).swapaxes(1, 2).reshape(-1, tile_px, tile_px, 3)
    has_thumbnail = thumbnail and columns * rows > 1
    if has_thumbnail:
        small = np.asarray(picture.resize((tile_px, tile_px), Image.Resampling.BICUBIC))
        tiles = np.concatenate([tiles, small[None]])
    return TiledImage(tiles, columns, rows, has_thumbnail)


def tokens_per_side(model: ModelConfig) -> int:
    """Image tokens along a tile's side, after pixel shuffle."""
    return model.vit.tile_px // model.vit.patch_px // model.downsample


def blank_tiles(width: int, height: int, *, model: ModelConfig) -> TiledImage:
    """The tiles of an image of so many px, without their pixels: how many there are, and where."""
    columns, rows = tile_grid(width, height, tile_px=model.vit.tile_px, max_tiles=model.max_tiles)
    has_thumbnail = columns * rows > 1
    return TiledImage(np.zeros((columns * rows + has_thumbnail, 0, 0, 3), np.uint8), columns, rows, has_thumbnail)


def token_labels(mask: Bool[np.ndarray, "H W"], tiled: TiledImage, *, tokens_per_side: int) -> Float[np.ndarray, " M"]:
    """Share of anomalous pixels under each image token.

    Exact where token borders cut pixels: a cut pixel counts by its covered area.

    Args:
      mask: True at anomalous pixels; of any size, it is taken to cover the same view as the image.
      tiled: The image's tiles.
      tokens_per_side: Tokens along a tile's side.

    Returns:
      float32, 0..1, tile by tile as in `tiled`, row by row inside a tile, thumbnail included.
    """

    def means(rows: int, columns: int) -> np.ndarray:
        return _cell_means(mask, rows, columns)

    return _by_token(means, tiled, tokens_per_side)


def box_cover(box: Box, width: int, height: int, tiled: TiledImage, *, tokens_per_side: int) -> Float[np.ndarray, " M"]:
    """Share of each image token that a box covers, as `token_labels` gives it for a mask of the box.

    Args:
      width, height: Of the image that the box lies in, px.
    """

    def covers(rows: int, columns: int) -> np.ndarray:
        down = _overlaps(height, rows)[:, max(box.top, 0) : box.bottom].sum(axis=1)
        across = _overlaps(width, columns)[:, max(box.left, 0) : box.right].sum(axis=1)
        return np.outer(down, across)

    return _by_token(covers, tiled, tokens_per_side)


def map_from_tokens(
    values: Float[np.ndarray, " M"], tiled: TiledImage, *, tokens_per_side: int, height: int, width: int
) -> Float[np.ndarray, "H W"]:
    """Token values laid back over the image, bilinear between token centres.

    The thumbnail's values are left out: its tokens are coarser than those of the tiles.

    Args:
      values: One value for each image token, in the order of `token_labels`.
      tiled: The image's tiles.
      tokens_per_side: Tokens along a tile's side.
      height: Of the map, px.
      width: Of the map, px.

    Returns:
      float32 [height, width].

    Raises:
      ValueError: The number of values is not that of the image's tokens.
    """
    num_tokens = tokens_per_side**2 * len(tiled.tiles)
    if values.shape != (num_tokens,):
        raise ValueError(
            f"map_from_tokens: {values.shape} values for {len(tiled.tiles)} tiles of {tokens_per_side}^2 tokens;"
            f" give ({num_tokens},)"
        )
    inside = values[: tiled.rows * tiled.columns * tokens_per_side**2].astype(np.float32)
    grid = inside.reshape(tiled.rows, tiled.columns, tokens_per_side, tokens_per_side).swapaxes(1, 2)
    grid = np.ascontiguousarray(grid.reshape(tiled.rows * tokens_per_side, tiled.columns * tokens_per_side))
    return np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))


def _by_token(cells: Callable[[int, int], np.ndarray], tiled: TiledImage, side: int) -> Float[np.ndarray, " M"]:
    """Values of a grid of so many rows and columns over the image, in the order of its tokens."""
    grid = cells(tiled.rows * side, tiled.columns * side)
    values = grid.reshape(tiled.rows, side, tiled.columns, side).swapaxes(1, 2).reshape(-1)
    if tiled.has_thumbnail:
        values = np.concatenate([values, cells(side, side).reshape(-1)])
    return values.astype(np.float32)


def _cell_means(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    down = _overlaps(mask.shape[0], rows)
    across = _overlaps(mask.shape[1], columns)
    return down @ mask.astype(np.float64) @ across.T


def _overlaps(pixels: int, cells: int) -> np.ndarray:
    """Share of each cell's length that each pixel covers, cells x pixels; rows sum to 1."""
    edges = np.linspace(0.0, pixels, cells + 1)
    left = np.arange(pixels)
    covered = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    return np.clip(covered, 0.0, None) * cells / pixels
