"""Lays surfaces without position out as a user's folder: brick, gravel and grass of scikit-image, with drawn defects.

    pip install scikit-image
    python -m bench.texture_folders --out textures

The upper half of each picture gives the good crops of `train/good`, the lower half those of `test/`. Defects of the
test crops are of kinds that sage_jax/data/drawing does not draw: blurred, swirled, faded, thread. With
`--config.data.test_fraction=0.9999` none of them trains.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage

from bench.board_folders import write
from sage_jax.axes import Bool, Float, UInt8
from sage_jax.data.images import encode_png

SIDE_PX: Final = 128
TEXTURES: Final = ("brick", "gravel", "grass")

Plane = Float[np.ndarray, "H W"]
Region = Bool[np.ndarray, "H W"]


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--good", type=int, default=34, help="good crops of each texture to train on")
    parser.add_argument("--tests", type=int, default=60, help="good, and as many defective, crops of each to test on")
    options = parser.parse_args()
    for number, name in enumerate(TEXTURES):
        picture, out = _picture(name), Path(options.out) / name
        learn, test = np.split(picture, 2)
        rng = np.random.default_rng(number)
        for index in range(options.good):
            write(out / "train/good" / f"{index:04d}.png", encode_png(_rgb(_crop(learn, rng))))
        for index in range(options.tests):
            write(out / "test/good" / f"{index:04d}.png", encode_png(_rgb(_crop(test, rng))))
        for index in range(options.tests):
            kind = list(KINDS)[index % len(KINDS)]
            changed, region = KINDS[kind](_crop(test, rng), _spot(rng), rng)
            write(out / "test" / kind / f"{index:04d}.png", encode_png(_rgb(changed)))
            write(out / "ground_truth" / kind / f"{index:04d}_mask.png", encode_png(_rgb(255.0 * region)))


def _picture(name: str) -> Plane:
    return np.asarray(getattr(importlib.import_module("skimage.data"), name)(), np.float32)


def _crop(half: Plane, rng: np.random.Generator) -> Plane:
    down, across = (int(rng.integers(side - SIDE_PX + 1)) for side in half.shape)
    return half[down : down + SIDE_PX, across : across + SIDE_PX]


def _rgb(plane: Plane) -> UInt8[np.ndarray, "H W 3"]:
    return np.repeat(np.clip(plane + 0.5, 0.0, 255.0).astype(np.uint8)[..., None], 3, axis=2)


def _spot(rng: np.random.Generator) -> Plane:
    """Distance from the middle of an ellipse somewhere in the crop, in units of its half-axes, 6 to 16 px."""
    middle, axes, turn = rng.uniform(20, SIDE_PX - 20, 2), rng.uniform(6, 16, 2), rng.uniform(0, np.pi)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32) - middle.astype(np.float32)[:, None, None]
    along, off = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.hypot(along / axes[0], off / axes[1])


def _blurred(crop: Plane, spot: Plane, rng: np.random.Generator) -> tuple[Plane, Region]:
    """The surface as if rubbed smooth."""
    return _blend(crop, ndimage.gaussian_filter(crop, rng.uniform(3.0, 5.0)), spot)


def _faded(crop: Plane, spot: Plane, rng: np.random.Generator) -> tuple[Plane, Region]:
    """The surface paler or darker than it is elsewhere."""
    return _blend(crop, crop + rng.choice([-1.0, 1.0]) * rng.uniform(45.0, 75.0), spot)


def _swirled(crop: Plane, spot: Plane, rng: np.random.Generator) -> tuple[Plane, Region]:
    """The surface twisted about a point, most at its middle."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    middle = np.unravel_index(int(spot.argmin()), spot.shape)
    turn = rng.uniform(2.0, 3.0) * np.clip(1.0 - spot, 0.0, 1.0)
    down, across = y - middle[0], x - middle[1]
    places = [middle[0] + np.cos(turn) * down - np.sin(turn) * across]
    places += [middle[1] + np.sin(turn) * down + np.cos(turn) * across]
    return ndimage.map_coordinates(crop, np.stack(places), order=1, mode="reflect"), spot < 1.0


def _thread(crop: Plane, spot: Plane, rng: np.random.Generator) -> tuple[Plane, Region]:
    """A thin bright thread, bent, with its shadow beside it."""
    middle = np.unravel_index(int(spot.argmin()), spot.shape)
    along = np.linspace(-1.0, 1.0, 400)
    turn, bend, half = rng.uniform(0, 2 * np.pi), rng.uniform(-8.0, 8.0), rng.uniform(14.0, 24.0)
    x, y = half * along, bend * along**2
    down = np.clip(middle[0] + np.sin(turn) * x + np.cos(turn) * y, 0, SIDE_PX - 2).astype(int)
    across = np.clip(middle[1] + np.cos(turn) * x - np.sin(turn) * y, 0, SIDE_PX - 2).astype(int)
    line = np.zeros(crop.shape, np.float32)
    line[down, across] = 1.0
    line = np.clip(2.0 * ndimage.gaussian_filter(line, 0.8), 0.0, 1.0)
    shadow = np.roll(line, (2, 1), axis=(0, 1))
    return crop * (1.0 - 0.5 * shadow) * (1.0 - line) + 235.0 * line, (line > 0.2) | (shadow > 0.2)


def _blend(crop: Plane, other: Plane, spot: Plane) -> tuple[Plane, Region]:
    share = np.clip(4.0 * (1.0 - spot), 0.0, 1.0)
    return (1.0 - share) * crop + share * other, spot < 1.0


KINDS: Final[dict[str, Callable[[Plane, Plane, np.random.Generator], tuple[Plane, Region]]]] = {
    "blurred": _blurred,
    "swirled": _swirled,
    "faded": _faded,
    "thread": _thread,
}

if __name__ == "__main__":
    main()
