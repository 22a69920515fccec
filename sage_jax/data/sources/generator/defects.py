"""Defect types of the generator: each looks the same kind of thing on every category."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from sage_jax.data.drawing.fields import polyline_distance
from sage_jax.data.sources.generator.canvas import Canvas, Picture, Plane

# A defect changes the painted picture around a place (u, v). It gets the canvas, the picture, the belt behind the part
# and the signed distance to the part's outline.
Maker = Callable[[Canvas, Picture, Picture, Plane, float, float, np.random.Generator], Picture]


def _blend(under: Picture, colour: Picture | tuple[float, float, float], cover: Plane) -> Picture:
    return under + (np.asarray(colour, dtype=np.float32) - under) * cover[..., None]


def _blob(c: Canvas, u: float, v: float, radius: float, rng: np.random.Generator, *, rough: float) -> Plane:
    """Signed distance to a disc whose radius varies by about `rough` of itself."""
    du, dv = c.u - u, c.v - v
    angle = np.arctan2(dv, du)
    wave = np.zeros_like(angle)
    for order, phase in zip((2, 3, 5), rng.uniform(0.0, 6.28, 3), strict=True):
        wave += np.cos(order * angle + phase)
    return np.sqrt(du * du + dv * dv) - radius * (1.0 + rough * 0.5 * wave)


def _walk(u: float, v: float, heading: float, length: float, turns: np.ndarray) -> np.ndarray:
    """Polyline centred on (u, v), of equal steps, each turned from the heading."""
    step = length / len(turns)
    steps = np.stack([np.cos(heading + turns), np.sin(heading + turns)], axis=1) * step
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return (points - points.mean(axis=0) + (u, v)).astype(np.float32)


def _scratch(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A straight bright line with a dark flank."""
    heading, length = rng.uniform(0.0, 3.14), rng.uniform(0.75, 1.15)
    line = _walk(u, v, heading, length, np.linspace(-0.12, 0.12, 3) * rng.uniform(-1.0, 1.0))
    shifted = line + np.float32(0.05) * np.array([-np.sin(heading), np.cos(heading)], dtype=np.float32)
    on_part = c.cover(inside)
    picture = _blend(picture, picture * 0.55, c.cover(polyline_distance(c.u, c.v, shifted) - 0.03) * on_part)
    return _blend(picture, (0.98, 0.98, 0.97), c.cover(polyline_distance(c.u, c.v, line) - 0.032) * on_part)


def _crack(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A dark jagged line with a branch."""
    heading, length = rng.uniform(0.0, 6.28), rng.uniform(0.8, 1.15)
    zigzag = np.where(np.arange(6) % 2, 0.75, -0.75) * rng.uniform(0.7, 1.2, 6)
    trunk = _walk(u, v, heading, length, zigzag)
    start = trunk[3]
    branch_heading = heading + rng.choice((-1.0, 1.0)) * 0.9
    branch = np.stack([start, start + 0.3 * np.array([np.cos(branch_heading), np.sin(branch_heading)])])
    gap = np.minimum(polyline_distance(c.u, c.v, trunk), polyline_distance(c.u, c.v, branch.astype(np.float32)))
    return _blend(picture, (0.08, 0.07, 0.07), c.cover(gap - 0.034) * c.cover(inside))


def _hole(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A black round spot with a thin bright burr."""
    gap = _blob(c, u, v, rng.uniform(0.16, 0.24), rng, rough=0.08)
    on_part = c.cover(inside)
    picture = _blend(picture, picture * 0.4 + 0.55, c.cover(np.abs(gap) - 0.03) * on_part)
    return _blend(picture, (0.03, 0.03, 0.03), c.cover(gap) * on_part)


def _stain(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A brown patch that dries darkest at its edge; what lies below shows through."""
    edge = _blob(c, u, v, rng.uniform(0.22, 0.31), rng, rough=0.3)
    wet = c.cover(edge) * (0.72 + 0.18 * np.clip(1.0 + edge / 0.12, 0.0, 1.0)) * c.cover(inside)
    return _blend(picture, (0.3, 0.17, 0.06), wet)


def _dent(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A round hollow: bright on the side away from the light, dark on the other; the colour stays."""
    radius = rng.uniform(0.24, 0.32)
    du, dv = (c.u - u) / radius, (c.v - v) / radius
    square = du * du + dv * dv
    slope = np.clip(1.0 - square, 0.0, 1.0) ** 0.5 * 1.8
    light = (0.6 * du + 0.8 * dv) * slope * c.cover(inside)
    return np.clip(picture * (1.0 + 0.62 * light)[..., None] + 0.12 * np.maximum(light, 0.0)[..., None], 0.0, 1.0)


def _missing_piece(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A bite out of the edge with a thin broken rim, the belt showing."""
    bite = _blob(c, u, v, rng.uniform(0.26, 0.38), rng, rough=0.12)
    on_part = c.cover(inside)
    picture = _blend(picture, picture * 0.75, c.cover(bite - 0.04) * on_part)
    return _blend(picture, belt, c.cover(bite) * c.cover(inside - c.px))


def _contamination(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A coloured lump lying on the part, with a shadow."""
    colours = ((0.1, 0.75, 0.2), (0.95, 0.15, 0.65), (0.1, 0.8, 0.9), (0.98, 0.85, 0.05))
    lump_rng = np.random.default_rng(int(rng.integers(1 << 31)))
    colour, radius = colours[rng.integers(len(colours))], rng.uniform(0.15, 0.22)
    lump = _blob(c, u, v, radius, lump_rng, rough=0.45)
    shadow = _blob(c, u + 0.05, v + 0.06, radius, lump_rng, rough=0.2)
    picture = _blend(picture, picture * 0.5, c.cover(shadow))
    return _blend(picture, colour, c.cover(lump))


def _discolouration(
    c: Canvas, picture: Picture, belt: Picture, inside: Plane, u: float, v: float, rng: np.random.Generator
) -> Picture:
    """A pale yellow cloud with a soft edge; what lies below shows through."""
    edge = _blob(c, u, v, rng.uniform(0.3, 0.38), rng, rough=0.2)
    cloud = np.clip(-edge / 0.14, 0.0, 1.0) * 0.78 * c.cover(inside)
    return _blend(picture, (0.97, 0.93, 0.6), cloud)


MAKERS: Final[dict[str, Maker]] = {
    "scratch": _scratch,
    "crack": _crack,
    "hole": _hole,
    "stain": _stain,
    "dent": _dent,
    "missing piece": _missing_piece,
    "contamination": _contamination,
    "discolouration": _discolouration,
}

AT_EDGE: Final = frozenset({"missing piece"})

# How far inside the outline the middle lies where the part is wide enough; others may touch the outline.
MARGIN: Final[dict[str, float]] = {"hole": 0.17, "dent": 0.15, "contamination": 0.06}
