"""Scenes that a camera sees turned and shifted."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sage_jax.data.drawing.fields import smooth_field


def scene(seed: int, side: int = 220) -> np.ndarray:
    """Blocks and discs on a ground, larger than what the camera sees of it."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 60.0) + 4.0 * smooth_field(rng, side, side, 9)[..., None]
    y, x = np.mgrid[:side, :side]
    for _ in range(26):
        (top, left), size, colour = rng.integers(0, side, 2), rng.integers(8, 40, 2), rng.integers(0, 256, 3)
        picture[(abs(y - top) < size[0] / 2) & (abs(x - left) < size[1] / 2)] = colour
    return picture


def seen(picture: np.ndarray, turn: float, down: float, across: float, side: int = 128) -> np.ndarray:
    """What the camera sees of a scene that was turned about the middle of the view (degrees) and then shifted (px)."""
    middle, radians = (picture.shape[0] - 1) / 2.0, np.deg2rad(turn)
    back = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    offset = np.array([middle, middle]) - back @ np.array([middle + down, middle + across])
    places = np.einsum("ij,jyx->iyx", back, np.mgrid[: picture.shape[0], : picture.shape[1]]) + offset[:, None, None]
    moved = [np.asarray(ndimage.map_coordinates(picture[..., c], places, order=1, mode="nearest")) for c in range(3)]
    start = (picture.shape[0] - side) // 2
    cut = np.stack(moved, axis=-1)[start : start + side, start : start + side]
    return np.clip(cut, 0.0, 255.0).astype(np.uint8)
