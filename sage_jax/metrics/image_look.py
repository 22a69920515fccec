"""What an image looks like, whatever model reads it: colours and edges of patches, sharpness, brightness, size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import ndimage

from sage_jax.axes import Float, UInt8

CELLS: Final = 8
"""Patches along a side."""

NUM_COLOURS: Final = 3
NUM_STATISTICS: Final = 12
"""Of a patch: mean colours, slopes, deviations of colours."""

Patches = Float[np.ndarray, "M E"]

_SMALLEST, _LARGEST = 64, 256
"""Sides, px, between which images are measured."""
_SHARP_PX: Final = 1024
"""Side of the middle of an image, in which sharpness is measured."""
_SCALES: Final = (0.7, 1.4, 2.8)
"""Deviations of the Gaussians whose slopes are edges, px."""


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What is measured of an image.

    Attributes:
      patches: Its statistics (`patch_statistics`).
      references: Those of the good images that it is compared with; none without a reference.
      sharpness: Logarithm of the deviation of the Laplacian of grey values, 0 to 1, in the middle.
      brightness: Mean grey value, 0 to 1.
      size: Logarithm of the longer side, px.
      category: Kind of part; "" where unknown.
    """

    patches: Patches
    references: tuple[Patches, ...]
    sharpness: float
    brightness: float
    size: float
    category: str = ""


def look_at(
    pixels: UInt8[np.ndarray, "H W 3"], patches: Patches, references: Sequence[Patches] = (), category: str = ""
) -> Look:
    """The look of an image.

    Args:
      patches: Its statistics.
      references: Those of the images that it is compared with.
      category: Kind of part; "" where unknown.
    """
    grey = pixels.mean(axis=-1, dtype=np.float32) / 255.0
    top, left = (max(0, (side - _SHARP_PX) // 2) for side in grey.shape)
    middle = grey[top : top + _SHARP_PX, left : left + _SHARP_PX]
    return Look(
        patches=patches,
        references=tuple(references),
        sharpness=math.log(float(ndimage.laplace(middle).std()) + 1e-3),
        brightness=float(grey.mean()),
        size=math.log(max(pixels.shape[:2])),
        category=category,
    )


def measured_side(height: int, width: int) -> int:
    """Side, px, of the square that an image is made for `patch_statistics`: its longer one, from 64 to 256 px."""
    return min(_LARGEST, max(_SMALLEST, max(height, width))) // CELLS * CELLS


def patch_statistics(square: UInt8[np.ndarray, "H H 3"]) -> Patches:
    """Of each of 8 x 8 patches, row by row: mean and deviation of red, green and blue, and mean slopes at three scales.

    A patch knows nothing of the others, unlike a transformer's, all of which a defect changes.

    Args:
      square: An image of `measured_side`.
    """
    colours = square.astype(np.float32) / 255.0
    grey = colours.mean(axis=-1)
    slopes = [np.abs(_slope(grey, scale, axis)) * scale for scale in _SCALES for axis in (1, 0)]
    size = len(square) // CELLS
    cells = np.concatenate([colours, np.stack(slopes, axis=-1)], axis=-1).reshape(CELLS, size, CELLS, size, -1)
    means, deviations = cells.mean(axis=(1, 3)), cells[..., :3].std(axis=(1, 3))
    return np.concatenate([means, deviations], axis=-1).reshape(CELLS**2, -1)


def _slope(grey: Float[np.ndarray, "H W"], scale: float, axis: int) -> Float[np.ndarray, "H W"]:
    """Derivative of the smoothed picture along an axis."""
    smooth = ndimage.gaussian_filter1d(grey, scale, axis=1 - axis)
    return np.asarray(ndimage.gaussian_filter1d(smooth, scale, axis=axis, order=1))
