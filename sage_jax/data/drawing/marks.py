"""Kinds of defect that are drawn into photographs of good parts, each at a place and with a look of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool
from sage_jax.data.drawing.fields import Grid, Picture, blend, blob, perlin, seamless, stroke, walk


@dataclasses.dataclass(frozen=True)
class Part:
    """A photograph of a good part to draw into.

    Attributes:
      picture: The photograph.
      inside: Where the part is; all True where it cannot be told from the ground.
      ground: Colour behind the part; None where it cannot be told.
      donor: Another photograph of the set, or the same one, for pieces that do not belong here.
      grid: Pixel coordinates.
    """

    picture: Picture
    inside: Bool[np.ndarray, "H W"]
    ground: np.ndarray | None
    donor: Picture
    grid: Grid


Maker = Callable[[Part, float, float, np.random.Generator], Picture]
"""Draws a defect about a place (y, x)."""


def _level(part: Part, y: float, x: float) -> float:
    """Brightness about a place."""
    reach = max(2, round(part.grid.size * 0.05))
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    return float(part.picture[top : int(y) + reach + 1, left : int(x) + reach + 1].mean())


def _contrasting(part: Part, y: float, x: float, rng: np.random.Generator) -> float:
    """A brightness that stands out from what is about a place."""
    level = _level(part, y, x)
    away = rng.uniform(0.25, 0.6)
    lighter = level + away <= 1.0 and (level - away < 0.0 or rng.random() < 0.5)
    return float(np.clip(level + away if lighter else level - away, 0.0, 1.0))


def _scratch(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A long thin line, lighter or darker than what it crosses."""
    length = part.grid.size * rng.uniform(0.15, 0.6)
    line = walk(y, x, length, np.cumsum(rng.normal(0.0, 0.08, 6)), rng)
    width = max(0.7, part.grid.size * rng.uniform(0.004, 0.012))
    faint = rng.uniform(0.6, 1.0)
    return blend(
        part.picture, (_contrasting(part, y, x, rng),) * 3, faint * part.grid.cover(stroke(part.grid, line) - width)
    )


def _crack(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A dark jagged line with a branch."""
    length = part.grid.size * rng.uniform(0.15, 0.5)
    trunk = walk(y, x, length, np.where(np.arange(7) % 2, 0.6, -0.6) * rng.uniform(0.4, 1.3, 7), rng)
    branch = walk(float(trunk[3, 0]), float(trunk[3, 1]), length * 0.4, rng.uniform(-0.5, 0.5, 3), rng)
    gap = np.minimum(stroke(part.grid, trunk), stroke(part.grid, branch - branch[0] + trunk[3]))
    width = max(0.7, part.grid.size * rng.uniform(0.004, 0.01))
    return blend(part.picture, part.picture * rng.uniform(0.05, 0.35), part.grid.cover(gap - width))


def _stain(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A patch with a darker rim; what lies below shows through."""
    radius = part.grid.size * rng.uniform(0.04, 0.16)
    edge = blob(part.grid, y, x, radius, rng, rough=0.35)
    colour = np.clip(_contrasting(part, y, x, rng) * rng.uniform(0.7, 1.2, 3), 0.0, 1.0)
    wet = part.grid.cover(edge, soft=radius * rng.uniform(0.1, 0.5)) * (0.5 + 0.3 * np.clip(1.0 + edge / radius, 0, 1))
    return blend(part.picture, colour, wet)


def _hole(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A round spot through which the ground shows, or which is dark, with a rim."""
    gap = blob(part.grid, y, x, max(1.5, part.grid.size * rng.uniform(0.02, 0.08)), rng, rough=0.12)
    through = rng.random() < 0.5
    colour = part.ground if part.ground is not None and through else (rng.uniform(0.0, 0.1),) * 3
    if part.ground is None and through:
        colour = (_contrasting(part, y, x, rng),) * 3
    rimmed = blend(part.picture, part.picture * 0.5 + 0.4, part.grid.cover(np.abs(gap) - 0.7) * rng.uniform(0.0, 0.8))
    return blend(rimmed, colour, part.grid.cover(gap))


def _dent(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A round hollow: light on one side, shade on the other; the colour stays."""
    radius = part.grid.size * rng.uniform(0.05, 0.16)
    across, down = (part.grid.x - x) / radius, (part.grid.y - y) / radius
    light = rng.uniform(0.0, 6.28)
    slope = np.sqrt(np.clip(1.0 - across**2 - down**2, 0.0, 1.0)) * 1.8
    shade = (np.cos(light) * across + np.sin(light) * down) * slope * rng.uniform(0.35, 0.8)
    return part.picture * (1.0 + shade)[..., None] + 0.12 * shade[..., None]


def _missing_piece(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A bite out of the part: the ground shows, or where there is none, what lies around without its pattern."""
    bite = blob(part.grid, y, x, part.grid.size * rng.uniform(0.05, 0.16), rng, rough=0.25)
    cover = part.grid.cover(bite)
    if part.ground is not None:
        return blend(part.picture, part.ground + rng.normal(0.0, 0.01, (*bite.shape, 1)), cover * part.inside)
    ring = np.abs(bite - 3.0) < 3.0
    around = np.median(part.picture[ring], axis=0) if ring.any() else part.picture.mean(axis=(0, 1))
    inner = part.picture[bite < 0.0]
    # On two-valued surfaces the piece that is gone shows the other value.
    gone = (
        around
        if inner.size and np.abs(inner.mean(axis=0) - around).mean() > 0.1
        else (_contrasting(part, y, x, rng),) * 3
    )
    return blend(part.picture, gone, cover)


def _contamination(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A lump or a fibre of any colour that lies on the part, with a shadow."""
    if rng.random() < 0.4:
        line = walk(y, x, part.grid.size * rng.uniform(0.15, 0.4), np.cumsum(rng.normal(0.0, 0.5, 9)), rng)
        shape = stroke(part.grid, line) - max(0.8, part.grid.size * rng.uniform(0.005, 0.015))
    else:
        shape = blob(part.grid, y, x, max(1.5, part.grid.size * rng.uniform(0.02, 0.09)), rng, rough=0.45)
    colour = rng.uniform(0.0, 1.0, 3) if rng.random() < 0.5 else (_contrasting(part, y, x, rng),) * 3
    shadow = ndimage.shift(part.grid.cover(shape, soft=2.0), rng.uniform(0.5, 2.5, 2), order=1)
    return blend(part.picture * (1.0 - 0.3 * shadow)[..., None], colour, part.grid.cover(shape))


def _window(part: Part, y: float, x: float, rng: np.random.Generator) -> tuple[slice, slice, Picture]:
    """A rectangle about a place, and a piece of the donor of its size from elsewhere, mirrored or upside down."""
    height, width = part.picture.shape[:2]
    rows, columns = (int(np.clip(part.grid.size * rng.uniform(0.06, 0.25), 4, side)) for side in (height, width))
    top = int(np.clip(y - rows / 2, 0, height - rows))
    left = int(np.clip(x - columns / 2, 0, width - columns))
    donor_top = int(rng.integers(max(1, part.donor.shape[0] - rows + 1)))
    donor_left = int(rng.integers(max(1, part.donor.shape[1] - columns + 1)))
    piece = part.donor[donor_top : donor_top + rows, donor_left : donor_left + columns]
    piece = piece[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    rows, columns = piece.shape[:2]
    return slice(top, top + rows), slice(left, left + columns), piece


def _misplaced(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A piece of the part where it does not belong (CutPaste, Li et al. 2021)."""
    rows, columns, piece = _window(part, y, x, rng)
    changed = part.picture.copy()
    changed[rows, columns] = np.clip(piece * rng.uniform(0.9, 1.1), 0.0, 1.0)
    return changed


def _distortion(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A piece of another photograph, blended without a seam (NSA, Schlüter et al. 2022)."""
    rows, columns, piece = _window(part, y, x, rng)
    changed = part.picture.copy()
    changed[rows, columns] = np.clip(seamless(part.picture[rows, columns], np.ascontiguousarray(piece)), 0.0, 1.0)
    return changed


def _rough_spot(part: Part, y: float, x: float, rng: np.random.Generator) -> Picture:
    """A texture of another kind under a mask of Perlin noise (DRAEM, Zavrtanik et al. 2021)."""
    height, width = part.picture.shape[:2]
    reach = part.grid.size * rng.uniform(0.08, 0.2)
    near = np.exp(-((part.grid.y - y) ** 2 + (part.grid.x - x) ** 2) / (2.0 * reach**2))
    mask = part.grid.cover(0.8 - (perlin(rng, height, width) + 2.5) * near / 2.0, soft=0.2)
    stretch = (height / part.donor.shape[0], width / part.donor.shape[1], 1)
    texture = np.asarray(ndimage.zoom(part.donor[::-1], stretch, order=1), np.float32)
    texture = np.roll(texture, tuple(rng.integers(0, (height, width))), axis=(0, 1))[..., rng.permutation(3)]
    texture = np.clip((texture - texture.mean()) * rng.choice((-1.5, 1.5)) + rng.uniform(0.2, 0.8), 0.0, 1.0)
    return blend(part.picture, texture, mask * rng.uniform(0.5, 1.0))


MAKERS: Final[dict[str, Maker]] = {
    "scratch": _scratch,
    "crack": _crack,
    "stain": _stain,
    "hole": _hole,
    "dent": _dent,
    "missing piece": _missing_piece,
    "contamination": _contamination,
    "misplaced piece": _misplaced,
    "distortion": _distortion,
    "rough spot": _rough_spot,
}
"""Kind in the words of the built-in vocabulary -> how it is drawn."""

BEYOND: Final = frozenset({"contamination", "stain"})
"""Kinds that may reach beyond the part: what lies on it, or has run off it."""
