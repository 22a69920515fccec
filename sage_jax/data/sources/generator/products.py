"""Product categories of the generator: outline, material and colour of each, drawn in the product's own coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np

from sage_jax.data.sources.generator.canvas import (
    Canvas,
    Colour,
    Picture,
    Plane,
    box_distance,
    brushed,
    disc_distance,
    grain,
    mix,
    smooth_noise,
    tint,
)


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


def _washer(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    inner = 0.26 + 0.1 * p.detail
    ring = np.maximum(c.radius - 0.8 * p.size, inner - c.radius)
    return tint(p.colour, brushed(c, rng)), ring


def _gear(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    teeth = 10 + int(4 * p.detail)
    wave = np.clip(2.2 * np.cos(teeth * c.angle), -1.0, 1.0)
    outer = c.radius - (0.76 * p.size + 0.07 * wave)
    body = mix(tint(p.colour, brushed(c, rng)), p.colour * 0.78, c.cover(np.abs(c.radius - 0.36) - 0.04))
    return body, np.maximum(outer, 0.2 - c.radius)


def _bottle_cap(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    rim = c.radius - (0.8 * p.size + 0.025 * np.cos(21 * c.angle))
    flutes = 0.9 + 0.1 * np.cos(21 * c.angle)
    body = mix(tint(p.colour, flutes), tint(p.colour, grain(c, rng)), c.cover(c.radius - 0.64 * p.size))
    return mix(body, p.accent, c.cover(c.radius - (0.22 + 0.12 * p.detail))), rim


def _ceramic_tile(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = box_distance(c, 0.82 * p.size, 0.82 * p.size, 0.05)
    diamond = np.abs(c.u) + np.abs(c.v) - (0.45 + 0.2 * p.detail)
    body = mix(tint(p.colour, grain(c, rng, 0.015)), p.accent, c.cover(diamond))
    return mix(body, p.colour, c.cover(diamond + 0.2)), edge


def _woven_fabric(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    count = 22.0 + 8.0 * p.detail
    weave = np.sin(count * c.u) * np.sin(count * c.v)
    threads = 1.0 + 0.07 * weave + 0.03 * np.cos(2.0 * count * c.u)
    return tint(p.colour, threads * grain(c, rng)), box_distance(c, 0.86 * p.size, 0.86 * p.size, 0.02)


def _metal_plate(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = box_distance(c, 0.84 * p.size, 0.84 * p.size, 0.12)
    folded = np.sqrt((np.abs(c.u) - 0.56) ** 2 + (np.abs(c.v) - 0.56) ** 2)
    bore = 0.11 + 0.04 * p.detail
    rolled = 1.0 + 0.03 * np.sin(70.0 * c.v + rng.uniform(0.0, 6.28))
    return tint(p.colour, rolled * grain(c, rng)), np.maximum(edge, bore - folded)


def _pill(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    half = 0.34 + 0.1 * p.detail
    along = np.maximum(np.abs(c.u) - 0.4, 0.0)
    edge = np.sqrt(along**2 + c.v**2) - half * 1.15 * p.size
    body = mix(p.colour, p.accent, c.cover(-c.u))
    dome = 1.04 - 0.35 * np.clip(1.0 + edge / half, 0.0, 1.0) ** 3
    return body * (dome * grain(c, rng, 0.01))[..., None], edge


def _gasket(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    outer = box_distance(c, 0.86 * p.size, 0.74 * p.size, 0.25)
    inner = box_distance(c, 0.42, 0.3 + 0.1 * p.detail, 0.15)
    return tint(p.colour, grain(c, rng, 0.025)), np.maximum(outer, -inner)


def _connector(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = box_distance(c, 0.86 * p.size, 0.58 * p.size, 0.08)
    columns = 4 + int(2 * p.detail)
    pitch = 1.4 / columns
    across = np.abs((c.u + 0.7) % pitch - pitch / 2.0) - 0.32 * pitch
    pins = np.maximum(np.maximum(across, np.abs(np.abs(c.v) - 0.24) - 0.1), np.abs(c.u) - 0.7)
    return mix(tint(p.colour, grain(c, rng)), p.accent, c.cover(pins)), edge


def _bearing_ring(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    ring = np.maximum(c.radius - 0.84 * p.size, 0.3 - c.radius)
    balls = 10 + int(3 * p.detail)
    step = 2.0 * np.pi / balls
    turned = (c.angle + step / 2.0) % step - step / 2.0
    ball = np.sqrt((c.radius * np.cos(turned) - 0.57) ** 2 + (c.radius * np.sin(turned)) ** 2) - 0.1
    race = mix(tint(p.colour, brushed(c, rng)), p.colour * 0.72, c.cover(np.abs(c.radius - 0.57) - 0.13))
    return mix(race, p.accent, c.cover(ball)), ring


def _wood_board(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    side = len(c.u)
    bend = smooth_noise(rng, side, 3)
    lines = 1.0 + 0.06 * np.sin((14.0 + 8.0 * p.detail) * c.v + 0.8 * bend + rng.uniform(0.0, 6.28))
    return tint(p.colour, lines * grain(c, rng)), box_distance(c, 0.88 * p.size, 0.7 * p.size, 0.03)


def _zipper_strip(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    edge = box_distance(c, 0.6 * p.size, 0.9, 0.02)
    pitch = 0.16 + 0.05 * p.detail
    left = c.u < 0.0
    along = np.where(left, c.v, c.v + pitch / 2.0) % pitch - pitch / 2.0
    tooth = np.maximum(np.abs(along) - 0.27 * pitch, np.abs(np.abs(c.u) - 0.09) - 0.13)
    cloth = tint(p.colour, (1.0 + 0.05 * np.sin(40.0 * (c.u + c.v))) * grain(c, rng))
    return mix(cloth, p.accent, c.cover(tooth)), edge


def _hex_nut(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    third = np.pi / 3.0
    turned = (c.angle + third / 2.0) % third - third / 2.0
    flat = c.radius * np.cos(turned) - 0.74 * p.size
    edge = np.maximum(flat, 0.3 + 0.08 * p.detail - c.radius)
    chamfer = 1.0 - 0.1 * c.cover(0.68 * p.size - c.radius)
    return tint(p.colour, brushed(c, rng) * chamfer), edge


def _button(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    folded = np.sqrt((np.abs(c.u) - 0.2) ** 2 + (np.abs(c.v) - 0.2) ** 2) - (0.08 + 0.03 * p.detail)
    rim = mix(tint(p.colour, grain(c, rng)), p.colour * 0.85, c.cover(np.abs(c.radius - 0.62 * p.size) - 0.03))
    return rim, np.maximum(c.radius - 0.84 * p.size, -folded)


def _flange(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    bolts = 5 + int(3 * p.detail)
    step = 2.0 * np.pi / bolts
    turned = (c.angle + step / 2.0) % step - step / 2.0
    bolt = np.sqrt((c.radius * np.cos(turned) - 0.62) ** 2 + (c.radius * np.sin(turned)) ** 2) - 0.08
    body = mix(tint(p.colour, brushed(c, rng)), p.colour * 0.85, c.cover(np.abs(c.radius - 0.4) - 0.02))
    return body, np.maximum(np.maximum(c.radius - 0.84 * p.size, 0.22 - c.radius), -bolt)


def _coin(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    star = c.radius - (0.34 + 0.1 * np.cos((4 + int(3 * p.detail)) * c.angle))
    body = mix(tint(p.colour, grain(c, rng)), p.colour * 1.15, c.cover(np.abs(star) - 0.03))
    return mix(body, p.colour * 0.8, c.cover(0.7 * p.size - c.radius)), c.radius - 0.8 * p.size


def _screw_head(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    slot = 0.09 + 0.03 * p.detail
    cross = np.minimum(box_distance(c, 0.5, slot, 0.02), box_distance(c, slot, 0.5, 0.02))
    body = mix(tint(p.colour, brushed(c, rng)), p.colour * 0.55, c.cover(cross))
    return body, c.radius - 0.8 * p.size


def _perforated_sheet(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    pitch = 0.3 + 0.06 * p.detail
    u, v = ((plane + pitch / 2.0) % pitch - pitch / 2.0 for plane in (c.u, c.v))
    edge = box_distance(c, 0.86 * p.size, 0.86 * p.size, 0.04)
    inner = box_distance(c, 0.76, 0.76, 0.0)
    return tint(p.colour, grain(c, rng)), np.maximum(edge, np.minimum(0.07 - np.sqrt(u * u + v * v), -inner))


def _ribbed_mat(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    ribs = 1.0 + 0.1 * np.sign(np.sin((20.0 + 8.0 * p.detail) * c.u))
    return tint(p.colour, ribs * grain(c, rng)), box_distance(c, 0.84 * p.size, 0.84 * p.size, 0.1)


def _cork(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    side = len(c.u)
    pores = np.clip(smooth_noise(rng, side, side // 2) - 1.6 + 0.4 * p.detail, 0.0, 1.0)
    return tint(p.colour, (1.0 - 0.12 * pores) * grain(c, rng, 0.03)), c.radius - 0.78 * p.size


def _bracket(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    width = 0.52 + 0.12 * p.detail
    outer = box_distance(c, 0.82 * p.size, 0.82 * p.size, 0.06)
    ell = np.maximum(outer, np.minimum(c.u, -c.v) + 0.82 - 2.0 * width + 0.3)
    holes = np.minimum(disc_distance(c, -0.56, -0.56, 0.1), disc_distance(c, 0.56, 0.56, 0.1))
    return tint(p.colour, grain(c, rng)), np.maximum(ell, -holes)


def _leather_patch(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    side = len(c.u)
    pebbles = 1.0 + 0.03 * smooth_noise(rng, side, side // 4)
    edge = box_distance(c, 0.84 * p.size, 0.76 * p.size, 0.3)
    stitch = np.abs(edge + 0.1) - 0.015
    dashes = np.maximum(stitch, -np.sin((28.0 + 8.0 * p.detail) * (c.u + c.v)) * 0.1)
    return mix(tint(p.colour, pebbles), p.accent, c.cover(dashes)), edge


def _pulley(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    spokes = 3 + int(3 * p.detail)
    grooves = 1.0 + 0.08 * np.cos(44.0 * np.maximum(c.radius, 0.45))
    window = np.maximum(np.abs(c.radius - 0.38) - 0.1, -np.cos(spokes * c.angle) * 0.2)
    return tint(p.colour, grooves * brushed(c, rng)), np.maximum(c.radius - 0.84 * p.size, -window)


def _circuit_card(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    pitch = 0.26 + 0.06 * p.detail
    lane = np.abs((c.v + 0.25 * np.clip(c.u * 6.0, -1.0, 1.0)) % pitch - pitch / 2.0) - 0.035
    pads = np.maximum(np.abs(np.abs(c.u) - 0.66) - 0.08, np.abs(c.v % pitch - pitch / 2.0) - 0.07)
    traces = np.maximum(np.minimum(lane, pads), np.abs(c.u) - 0.74)
    return mix(tint(p.colour, grain(c, rng)), p.accent, c.cover(traces)), box_distance(c, 0.86 * p.size, 0.74, 0.03)


def _honeycomb_panel(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    count = 9.0 + 3.0 * p.detail
    waves = sum(np.cos(count * (np.cos(turn) * c.u + np.sin(turn) * c.v)) for turn in (0.0, 2.0944, 4.1888))
    cells = 1.0 - 0.1 * np.clip(waves, -1.0, 1.0)
    return tint(p.colour, cells * grain(c, rng, 0.015)), box_distance(c, 0.85 * p.size, 0.72 * p.size, 0.15)


def _printed_label(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    pitch = 0.24
    line = np.abs(c.v % pitch - pitch / 2.0) - 0.045
    words = np.maximum(line, 0.04 - np.abs((c.u + 0.3 * np.floor(c.v / pitch)) % (0.4 + 0.1 * p.detail) - 0.1))
    print_area = np.maximum(words, box_distance(c, 0.66, 0.5, 0.0))
    body = mix(tint(p.colour, grain(c, rng, 0.012)), p.colour * 0.55, c.cover(print_area))
    return body, box_distance(c, 0.86 * p.size, 0.68 * p.size, 0.06)


def _cross_joint(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    arm = 0.36 + 0.08 * p.detail
    plus = np.minimum(box_distance(c, 0.86 * p.size, arm, 0.08), box_distance(c, arm, 0.86 * p.size, 0.08))
    body = mix(tint(p.colour, grain(c, rng)), p.colour * 0.8, c.cover(np.abs(c.radius - 0.24) - 0.035))
    return body, plus


def _lens_cap(c: Canvas, p: Product, rng: np.random.Generator) -> tuple[Picture, Plane]:
    rings = 1.0 + 0.06 * np.cos((26.0 + 10.0 * p.detail) * c.radius)
    grip = c.radius - (0.8 * p.size + 0.02 * np.sign(np.cos(32.0 * c.angle)))
    body = mix(tint(p.colour, rings * grain(c, rng)), p.accent, c.cover(box_distance(c, 0.3, 0.07, 0.03)))
    return body, grip


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
    "flange": _flange,
    "coin": _coin,
    "screw head": _screw_head,
    "perforated sheet": _perforated_sheet,
    "ribbed mat": _ribbed_mat,
    "cork": _cork,
    "bracket": _bracket,
    "leather patch": _leather_patch,
    "pulley": _pulley,
    "circuit card": _circuit_card,
    "honeycomb panel": _honeycomb_panel,
    "printed label": _printed_label,
    "cross joint": _cross_joint,
    "lens cap": _lens_cap,
}

# Body colours a product may have, kept clear of black (holes, cracks) and of near white (scratches).
_STEEL = ((0.58, 0.6, 0.63), (0.5, 0.53, 0.58), (0.64, 0.64, 0.62))
_PAINT = ((0.7, 0.3, 0.28), (0.3, 0.45, 0.72), (0.32, 0.6, 0.4), (0.72, 0.6, 0.3), (0.55, 0.4, 0.62))
_CLOTH = ((0.45, 0.52, 0.66), (0.62, 0.5, 0.48), (0.5, 0.6, 0.5), (0.66, 0.62, 0.52))
_BRASS = ((0.7, 0.58, 0.32), (0.64, 0.54, 0.36))
_RUBBER = ((0.42, 0.44, 0.46), (0.66, 0.42, 0.3), (0.36, 0.5, 0.6))
_RESIN = ((0.42, 0.44, 0.46), (0.3, 0.42, 0.62), (0.36, 0.54, 0.42))
_WOOD = ((0.68, 0.5, 0.33), (0.62, 0.44, 0.28), (0.72, 0.56, 0.38))
BODY_COLOURS: Final[dict[str, tuple[tuple[float, float, float], ...]]] = {
    "washer": _STEEL,
    "gear": _STEEL,
    "bottle cap": _PAINT,
    "ceramic tile": (*_CLOTH, (0.72, 0.7, 0.66)),
    "woven fabric": _CLOTH,
    "metal plate": _STEEL,
    "pill": _PAINT,
    "gasket": _RUBBER,
    "connector": _RESIN,
    "bearing ring": _STEEL,
    "wood board": _WOOD,
    "zipper strip": _CLOTH,
    "hex nut": _BRASS,
    "button": _PAINT,
    "flange": _STEEL,
    "coin": (*_BRASS, *_STEEL),
    "screw head": (*_STEEL, *_BRASS),
    "perforated sheet": _STEEL,
    "ribbed mat": _RUBBER,
    "cork": _WOOD,
    "bracket": (*_STEEL, *_PAINT),
    "leather patch": (*_WOOD, *_CLOTH),
    "pulley": (*_STEEL, *_PAINT),
    "circuit card": _RESIN,
    "honeycomb panel": (*_CLOTH, *_PAINT),
    "printed label": _CLOTH,
    "cross joint": (*_PAINT, *_BRASS),
    "lens cap": (*_RUBBER, *_PAINT),
}
ACCENTS: Final = ((0.74, 0.72, 0.66), (0.6, 0.6, 0.64), (0.72, 0.64, 0.44))
