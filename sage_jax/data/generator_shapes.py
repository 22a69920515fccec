"""Product categories of the generator: outline, material and colour of each, drawn in the product's own coordinates.

Coordinates: u to the right, v down, half the image's side is 1; a pose moves and turns them. Distances are signed and
negative inside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

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


@dataclasses.dataclass(frozen=True)
class Product:
    """What all good parts of one product have in common: colours, sizes, and the belt they lie on.

    Attributes:
      colour: Body colour.
      accent: Second colour.
      belt: Background colour.
      size: Scale of the outline, about 1.
      detail: Share in 0..1 that each category uses for its own variant, such as the number of teeth.
    """

    colour: Colour
    accent: Colour
    belt: Colour
    size: float
    detail: float


# A category paints its body (colour of each pixel as if it reached everywhere) and tells how far each pixel is inside.
Painter = Callable[[Canvas, Product, np.random.Generator], tuple[Picture, Plane]]


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


def _tint(colour: Colour, shade: Plane) -> Picture:
    return colour * shade[..., None]


def _mix(under: Picture | Colour, over: Picture | Colour, cover: Plane) -> Picture:
    return under + (over - under) * cover[..., None]


def _box(c: Canvas, half_u: float, half_v: float, corner: float) -> Plane:
    a, b = np.abs(c.u) - (half_u - corner), np.abs(c.v) - (half_v - corner)
    outside = np.sqrt(np.maximum(a, 0.0) ** 2 + np.maximum(b, 0.0) ** 2)
    return outside + np.minimum(np.maximum(a, b), 0.0) - corner


def _disc(c: Canvas, u: float, v: float, radius: float) -> Plane:
    return np.sqrt((c.u - u) ** 2 + (c.v - v) ** 2) - radius


def _brushed(c: Canvas, rng: np.random.Generator) -> Plane:
    """Turned metal: faint rings and the double glint of a lathe."""
    phase = rng.uniform(0.0, 6.28)
    return 1.0 + 0.03 * np.sin(c.radius * 60.0 + phase) + 0.05 * np.cos(2.0 * c.angle + 0.6)


def _grain(c: Canvas, rng: np.random.Generator, amount: float = 0.02) -> Plane:
    side = len(c.u)
    return 1.0 + amount * smooth_noise(rng, side, max(4, side // 3))


def _washer(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    inner = 0.26 + 0.1 * p.detail
    ring = np.maximum(c.radius - 0.8 * p.size, inner - c.radius)
    return _tint(p.colour, _brushed(c, rng)), ring


def _gear(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    teeth = 10 + int(4 * p.detail)
    wave = np.clip(2.2 * np.cos(teeth * c.angle), -1.0, 1.0)
    outer = c.radius - (0.76 * p.size + 0.07 * wave)
    body = _mix(_tint(p.colour, _brushed(c, rng)), p.colour * 0.78, c.cover(np.abs(c.radius - 0.36) - 0.04))
    return body, np.maximum(outer, 0.2 - c.radius)


def _bottle_cap(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    rim = c.radius - (0.8 * p.size + 0.025 * np.cos(21 * c.angle))
    flutes = 0.9 + 0.1 * np.cos(21 * c.angle)
    body = _mix(_tint(p.colour, flutes), _tint(p.colour, _grain(c, rng)), c.cover(c.radius - 0.64 * p.size))
    return _mix(body, p.accent, c.cover(c.radius - (0.22 + 0.12 * p.detail))), rim


def _ceramic_tile(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = _box(c, 0.82 * p.size, 0.82 * p.size, 0.05)
    diamond = np.abs(c.u) + np.abs(c.v) - (0.45 + 0.2 * p.detail)
    body = _mix(_tint(p.colour, _grain(c, rng, 0.015)), p.accent, c.cover(diamond))
    return _mix(body, p.colour, c.cover(diamond + 0.2)), edge


def _woven_fabric(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    count = 22.0 + 8.0 * p.detail
    weave = np.sin(count * c.u) * np.sin(count * c.v)
    threads = 1.0 + 0.07 * weave + 0.03 * np.cos(2.0 * count * c.u)
    return _tint(p.colour, threads * _grain(c, rng)), _box(c, 0.86 * p.size, 0.86 * p.size, 0.02)


def _metal_plate(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = _box(c, 0.84 * p.size, 0.84 * p.size, 0.12)
    folded = np.sqrt((np.abs(c.u) - 0.56) ** 2 + (np.abs(c.v) - 0.56) ** 2)
    bore = 0.11 + 0.04 * p.detail
    rolled = 1.0 + 0.03 * np.sin(70.0 * c.v + rng.uniform(0.0, 6.28))
    return _tint(p.colour, rolled * _grain(c, rng)), np.maximum(edge, bore - folded)


def _pill(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    half = 0.34 + 0.1 * p.detail
    along = np.maximum(np.abs(c.u) - 0.4, 0.0)
    edge = np.sqrt(along**2 + c.v**2) - half * 1.15 * p.size
    body = _mix(p.colour, p.accent, c.cover(-c.u))
    dome = 1.04 - 0.35 * np.clip(1.0 + edge / half, 0.0, 1.0) ** 3
    return body * (dome * _grain(c, rng, 0.01))[..., None], edge


def _gasket(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    outer = _box(c, 0.86 * p.size, 0.74 * p.size, 0.25)
    inner = _box(c, 0.42, 0.3 + 0.1 * p.detail, 0.15)
    return _tint(p.colour, _grain(c, rng, 0.025)), np.maximum(outer, -inner)


def _connector(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = _box(c, 0.86 * p.size, 0.58 * p.size, 0.08)
    columns = 4 + int(2 * p.detail)
    pitch = 1.4 / columns
    across = np.abs((c.u + 0.7) % pitch - pitch / 2.0) - 0.32 * pitch
    pins = np.maximum(np.maximum(across, np.abs(np.abs(c.v) - 0.24) - 0.1), np.abs(c.u) - 0.7)
    return _mix(_tint(p.colour, _grain(c, rng)), p.accent, c.cover(pins)), edge


def _bearing_ring(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    ring = np.maximum(c.radius - 0.84 * p.size, 0.3 - c.radius)
    balls = 10 + int(3 * p.detail)
    step = 2.0 * np.pi / balls
    turned = (c.angle + step / 2.0) % step - step / 2.0
    ball = np.sqrt((c.radius * np.cos(turned) - 0.57) ** 2 + (c.radius * np.sin(turned)) ** 2) - 0.1
    race = _mix(_tint(p.colour, _brushed(c, rng)), p.colour * 0.72, c.cover(np.abs(c.radius - 0.57) - 0.13))
    return _mix(race, p.accent, c.cover(ball)), ring


def _wood_board(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    side = len(c.u)
    bend = smooth_noise(rng, side, 3)
    lines = 1.0 + 0.06 * np.sin((14.0 + 8.0 * p.detail) * c.v + 0.8 * bend + rng.uniform(0.0, 6.28))
    return _tint(p.colour, lines * _grain(c, rng)), _box(c, 0.88 * p.size, 0.7 * p.size, 0.03)


def _zipper_strip(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = _box(c, 0.6 * p.size, 0.9, 0.02)
    pitch = 0.16 + 0.05 * p.detail
    left = c.u < 0.0
    along = np.where(left, c.v, c.v + pitch / 2.0) % pitch - pitch / 2.0
    tooth = np.maximum(np.abs(along) - 0.27 * pitch, np.abs(np.abs(c.u) - 0.09) - 0.13)
    cloth = _tint(p.colour, (1.0 + 0.05 * np.sin(40.0 * (c.u + c.v))) * _grain(c, rng))
    return _mix(cloth, p.accent, c.cover(tooth)), edge


def _hex_nut(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    third = np.pi / 3.0
    turned = (c.angle + third / 2.0) % third - third / 2.0
    flat = c.radius * np.cos(turned) - 0.74 * p.size
    edge = np.maximum(flat, 0.3 + 0.08 * p.detail - c.radius)
    chamfer = 1.0 - 0.1 * c.cover(0.68 * p.size - c.radius)
    return _tint(p.colour, _brushed(c, rng) * chamfer), edge


def _button(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    folded = np.sqrt((np.abs(c.u) - 0.2) ** 2 + (np.abs(c.v) - 0.2) ** 2) - (0.08 + 0.03 * p.detail)
    rim = _mix(_tint(p.colour, _grain(c, rng)), p.colour * 0.85, c.cover(np.abs(c.radius - 0.62 * p.size) - 0.03))
    return rim, np.maximum(c.radius - 0.84 * p.size, -folded)


PAINTERS: Final[dict[str, Painter]] = {
    "washer": _washer,
    "gear": _gear,
    "bottle cap": _bottle_cap,
    "ceramic tile": _ceramic_tile,
    "woven fabric": _woven_fabric,
    "metal plate": _metal_plate,
    "pill": _pill,
    "gasket": _gasket,
    "connector": _connector,
    "bearing ring": _bearing_ring,
    "wood board": _wood_board,
    "zipper strip": _zipper_strip,
    "hex nut": _hex_nut,
    "button": _button,
}

# Body colours a product may have, kept clear of black (holes, cracks) and of near white (scratches).
_STEEL = ((0.58, 0.6, 0.63), (0.5, 0.53, 0.58), (0.64, 0.64, 0.62))
_PAINT = ((0.7, 0.3, 0.28), (0.3, 0.45, 0.72), (0.32, 0.6, 0.4), (0.72, 0.6, 0.3), (0.55, 0.4, 0.62))
_CLOTH = ((0.45, 0.52, 0.66), (0.62, 0.5, 0.48), (0.5, 0.6, 0.5), (0.66, 0.62, 0.52))
_BRASS = ((0.7, 0.58, 0.32), (0.64, 0.54, 0.36))
_WOOD = ((0.68, 0.5, 0.33), (0.62, 0.44, 0.28), (0.72, 0.56, 0.38))
BODY_COLOURS: Final[dict[str, tuple[tuple[float, float, float], ...]]] = {
    "washer": _STEEL,
    "gear": _STEEL,
    "bottle cap": _PAINT,
    "ceramic tile": (*_CLOTH, (0.72, 0.7, 0.66)),
    "woven fabric": _CLOTH,
    "metal plate": _STEEL,
    "pill": _PAINT,
    "gasket": ((0.42, 0.44, 0.46), (0.66, 0.42, 0.3), (0.36, 0.5, 0.6)),
    "connector": ((0.42, 0.44, 0.46), (0.3, 0.42, 0.62), (0.36, 0.54, 0.42)),
    "bearing ring": _STEEL,
    "wood board": _WOOD,
    "zipper strip": _CLOTH,
    "hex nut": _BRASS,
    "button": _PAINT,
}
ACCENTS: Final = ((0.74, 0.72, 0.66), (0.6, 0.6, 0.64), (0.72, 0.64, 0.44))
