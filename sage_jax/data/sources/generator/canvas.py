"""The drawing surface of the generator: a product's own coordinates, outlines as signed distances, surfaces and noise.

Coordinates: u to the right, v down, half the image's side is 1; a pose moves and turns them. Distances are signed and
negative inside.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]  # H W
Picture = NDArray[np.floating]  # H W 3, 0 to 1
Colour = NDArray[np.floating]  # 3, red green blue


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The pixel grid in a product's coordinates, for one pose.

    Attributes:
      u, v: Coordinates of each pixel's middle.
      radius, angle: The same in polar form.
      px: Size of a pixel.
    """

    u: Plane
    v: Plane
    radius: Plane
    angle: Plane
    px: float

    def cover(self, distance: Plane) -> Plane:
        """Share of each pixel inside a signed distance, 0 to 1: an edge one pixel wide."""
        return np.clip(0.5 - distance / self.px, 0.0, 1.0)


@functools.lru_cache(maxsize=64)
def _pixel_grid(side: int) -> tuple[Plane, Plane]:
    line = (np.arange(side, dtype=np.float32) + 0.5) * (2.0 / side) - 1.0
    u, v = np.meshgrid(line, line)
    return u, v


@functools.lru_cache(maxsize=64)
def _stretch(side: int, knots: int) -> Plane:
    """Linear interpolation from `knots` values to `side` pixels, as a matrix."""
    position = np.linspace(0.0, knots - 1.0, side, dtype=np.float32)
    return np.clip(1.0 - np.abs(position[:, None] - np.arange(knots, dtype=np.float32)), 0.0, 1.0)


def canvas(side: int, *, shift_u: float = 0.0, shift_v: float = 0.0, turn: float = 0.0) -> Canvas:
    """The pixel grid of an image for a product shifted (in half-sides) and turned (in radians)."""
    u0, v0 = _pixel_grid(side)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    du, dv = u0 - np.float32(shift_u), v0 - np.float32(shift_v)
    u, v = cos * du + sin * dv, cos * dv - sin * du
    return Canvas(u, v, np.sqrt(u * u + v * v), np.arctan2(v, u), 2.0 / side)


def smooth_noise(rng: np.random.Generator, side: int, knots: int) -> Plane:
    """Noise of deviation 1 at the knots, `knots` of them a side, linear between."""
    stretch = _stretch(side, min(knots, side))
    return stretch @ rng.standard_normal((stretch.shape[1],) * 2, dtype=np.float32) @ stretch.T


def tint(colour: Colour, shade: Plane) -> Picture:
    return colour * shade[..., None]


def mix(under: Picture | Colour, over: Picture | Colour, cover: Plane) -> Picture:
    return under + (over - under) * cover[..., None]


def box_distance(c: Canvas, half_u: float, half_v: float, corner: float) -> Plane:
    a, b = np.abs(c.u) - (half_u - corner), np.abs(c.v) - (half_v - corner)
    outside = np.sqrt(np.maximum(a, 0.0) ** 2 + np.maximum(b, 0.0) ** 2)
    return outside + np.minimum(np.maximum(a, b), 0.0) - corner


def disc_distance(c: Canvas, u: float, v: float, radius: float) -> Plane:
    return np.sqrt((c.u - u) ** 2 + (c.v - v) ** 2) - radius


def brushed(c: Canvas, rng: np.random.Generator) -> Plane:
    """Turned metal: faint rings and the double glint of a lathe."""
    phase = rng.uniform(0.0, 6.28)
    return 1.0 + 0.03 * np.sin(c.radius * 60.0 + phase) + 0.05 * np.cos(2.0 * c.angle + 0.6)


def grain(c: Canvas, rng: np.random.Generator, amount: float = 0.02) -> Plane:
    side = len(c.u)
    return 1.0 + amount * smooth_noise(rng, side, max(4, side // 3))
