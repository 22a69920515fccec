"""Photographs of one part differ: its edges by a pixel, the light by a little, the sensor by its noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sage_jax.data.drawing.fields import Picture, smooth_field


def vary(picture: Picture, rng: np.random.Generator, amount: float) -> Picture:
    """Another photograph of the same good part, as it were; values stay in 0 to 1.

    Edges move by up to about 1.5 px, smoothly over the image; brightness, contrast and colour change by up to a tenth;
    the image gets a little softer, and noise of up to 2 %.

    Args:
      amount: How much of that, 1 = as said; 0 returns the picture.
    """
    if amount == 0.0:
        return picture
    height, width = picture.shape[:2]
    changed = _moved(picture, rng, amount)
    if rng.random() < 0.5:
        changed = ndimage.gaussian_filter(changed, (*(amount * rng.uniform(0.2, 0.7),) * 2, 0.0), mode="nearest")
    gain = 1.0 + amount * rng.uniform(-0.1, 0.1) + amount * rng.uniform(-0.03, 0.03, 3)
    light = 1.0 + amount * 0.03 * smooth_field(rng, height, width, 3)[..., None]
    noise = rng.standard_normal(picture.shape, np.float32) * (amount * rng.uniform(0.0, 0.02))
    middle = float(changed.mean())
    contrast = 1.0 + amount * rng.uniform(-0.1, 0.1)
    return np.clip(((changed - middle) * contrast + middle) * gain * light + noise, 0.0, 1.0).astype(np.float32)


def _moved(picture: Picture, rng: np.random.Generator, amount: float) -> Picture:
    """The picture under a smooth field of small displacements."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    knots = int(rng.integers(3, 12))
    strength = amount * rng.uniform(0.0, 0.7)
    y += amount * rng.uniform(-0.7, 0.7) + strength * smooth_field(rng, height, width, knots)
    x += amount * rng.uniform(-0.7, 0.7) + strength * smooth_field(rng, height, width, knots)
    channels = [ndimage.map_coordinates(picture[..., c], (y, x), order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=-1)
