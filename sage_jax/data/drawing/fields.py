"""What drawn defects are made of: smooth random fields, blobs, strokes, and patches blended without a seam."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Plane = NDArray[np.floating]  # H W
Picture = NDArray[np.floating]  # H W 3, 0 to 1


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pixel coordinates of an image, and the length that defects are measured by.

    Attributes:
      y, x: Row and column of each pixel.
      size: Shorter side of the part, px.
    """

    y: Plane
    x: Plane
    size: float

    def cover(self, distance: Plane, *, soft: float = 1.0) -> Plane:
        """Share of each pixel inside a signed distance in px (negative inside): an edge `soft` px wide."""
        return np.clip(0.5 - distance / max(soft, 1.0), 0.0, 1.0)


def grid(height: int, width: int, size: float) -> Grid:
    """The grid of an image."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return Grid(y, x, size)


def smooth_field(rng: np.random.Generator, height: int, width: int, knots: int) -> Plane:
    """Noise of deviation 1 at the knots, `knots` of them along the longer side, smooth between."""
    knots = max(2, knots)
    rows = max(2, round(knots * height / max(height, width)))
    columns = max(2, round(knots * width / max(height, width)))
    coarse = rng.standard_normal((rows, columns))
    fine = ndimage.zoom(coarse, (height / rows, width / columns), order=3, mode="nearest", grid_mode=True)
    return np.asarray(fine, np.float32)


def perlin(rng: np.random.Generator, height: int, width: int) -> Plane:
    """Noise of several scales, each half as strong as the one twice as coarse (Perlin 1985), deviation about 1."""
    first = int(rng.integers(2, 7))
    octaves = [smooth_field(rng, height, width, first * 2**octave) / 2**octave for octave in range(4)]
    total = np.sum(octaves, axis=0)
    return total / max(float(total.std()), 1e-6)


def blob(grid: Grid, y: float, x: float, radius: float, rng: np.random.Generator, *, rough: float) -> Plane:
    """Signed distance to an ellipse whose radius varies by about `rough` of itself."""
    turn, stretch = rng.uniform(0.0, 3.14), rng.uniform(0.65, 1.0)
    across, down = grid.x - x, grid.y - y
    along = np.cos(turn) * across + np.sin(turn) * down
    aside = (np.cos(turn) * down - np.sin(turn) * across) / stretch
    angle = np.arctan2(aside, along)
    wave = np.zeros_like(angle)
    for order, phase in zip((2, 3, 5, 8), rng.uniform(0.0, 6.28, 4), strict=True):
        wave += np.cos(order * angle + phase) * 2.0 / order
    return np.sqrt(along**2 + aside**2) - radius * (1.0 + rough * 0.4 * wave)


def stroke(grid: Grid, points: NDArray[np.floating]) -> Plane:
    """Distance to a polyline of points (y, x), px."""
    return polyline_distance(grid.y, grid.x, points)


def polyline_distance(first: Plane, second: Plane, points: NDArray[np.floating]) -> Plane:
    """Distance of each pixel to a polyline, in the units of its two coordinates; points are (first, second)."""
    nearest = np.full_like(first, np.inf)
    for (u0, v0), (u1, v1) in zip(points[:-1], points[1:], strict=True):
        du, dv = u1 - u0, v1 - v0
        pu, pv = first - u0, second - v0
        along = np.clip((pu * du + pv * dv) / (du * du + dv * dv + 1e-9), 0.0, 1.0)
        nearest = np.minimum(nearest, (pu - along * du) ** 2 + (pv - along * dv) ** 2)
    return np.sqrt(nearest)


def walk(
    y: float, x: float, length: float, turns: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.floating]:
    """Polyline centred on (y, x), of equal steps, each turned by so many radians from a random heading."""
    heading = rng.uniform(0.0, 6.28)
    steps = np.stack([np.sin(heading + turns), np.cos(heading + turns)], axis=1) * (length / len(turns))
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return points - points.mean(axis=0) + (y, x)


def blend(under: Picture, over: Picture | tuple[float, ...] | NDArray[np.floating], cover: Plane) -> Picture:
    """`over` laid on `under` where it covers it."""
    return under + (np.asarray(over, np.float32) - under) * cover[..., None]


def seamless(under: Picture, patch: Picture) -> Picture:
    """The patch with its own gradients and the border of what lies under it (Pérez et al. 2003), of the same shape.

    The Laplace equation for what is added, with values given on the border, is solved exactly by sine transforms.
    """
    height, width = under.shape[:2]
    if min(height, width) < 3:
        return patch
    border = under - patch
    border[1:-1, 1:-1] = 0.0
    right = -ndimage.convolve(border, _LAPLACE[..., None], mode="constant")[1:-1, 1:-1]
    rows = np.arange(1, height - 1)[:, None] * np.pi / (height - 1)
    columns = np.arange(1, width - 1)[None, :] * np.pi / (width - 1)
    eigen = (2.0 * np.cos(rows) + 2.0 * np.cos(columns) - 4.0)[..., None]
    spectrum = np.asarray(fft.dstn(right, type=1, axes=(0, 1))) / eigen
    added = border.copy()
    added[1:-1, 1:-1] = np.asarray(fft.idstn(spectrum, type=1, axes=(0, 1)))
    return patch + added


_LAPLACE = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], np.float32)
