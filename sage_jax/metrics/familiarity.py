"""Whether an image is like those that a model was calibrated on; of one that is not, the score means nothing.

Patches are compared with a memory bank of good ones and with the reference, and three plainer measures stand beside
them. The limit is that of conformal prediction over the largest standardised measure, each image held against a bank
and against measures of others, which are no more than those that are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from sage_jax.axes import Float
from sage_jax.metrics.image_look import CELLS, NUM_COLOURS, NUM_STATISTICS, Look, Patches

_BANK: Final = 8192
"""Most patches of a bank."""
_LEAST_IMAGES: Final = 4
_MOST_FOLDS: Final = 10
_COUNTED: Final = 0.75
"""Share of an image's patches, the nearest ones, that tell how far it is: a defect may cover the others."""
_LEAST_DEVIATION: Final = np.where(np.arange(NUM_STATISTICS) < NUM_COLOURS, 0.05, 0.02)
"""Of each statistic of patches, of which colours come first; all are of values from 0 to 1."""

_LEAST_SPREAD: Final = {"patches": 0.07, "match": 0.07, "sharpness": 0.15, "brightness": 0.02, "size": 0.05}
"""By measure: below this, images do not differ in anything that matters."""
_LEAST_LIMIT: Final = 1.0
"""In spreads: images of a fixed camera, which hardly differ, leave room for what does not matter."""
_SIGNED: Final = {
    "patches": ("its patches are unlike those of the good images that it was calibrated on",) * 2,
    "match": ("it does not match its reference", ""),
    "sharpness": ("it is sharper than the images that it was calibrated on", "it is less sharp than those"),
    "brightness": ("it is brighter than the images that it was calibrated on", "it is darker than those"),
    "size": ("it is larger than the images that it was calibrated on", "it is smaller than those"),
}
_ONE_SIDED: Final = ("patches", "match")


@dataclasses.dataclass(frozen=True)
class Familiarity:
    """What calibration images look like, and how far another may be from them.

    Attributes:
      bank: Patches of good images, standardised.
      mean, deviation: Of each statistic of patches, over all patches of good images: what standardises them.
      categories: Kinds of part of the good images; none where it is not said of each of them.
      middle, spread: By measure: median, and what nine tenths of the images are apart from it at most: above it for
        patches and match, to either side for the others. So no measure with a long tail stands for all.
      limit: Of the largest distance of a measure from its middle, in spreads.
      rate: Share of images like those of the calibration that are called unfamiliar, on average over calibrations.
    """

    bank: Float[np.ndarray, "G E"]
    mean: Float[np.ndarray, " E"]
    deviation: Float[np.ndarray, " E"]
    categories: tuple[str, ...]
    middle: dict[str, float]
    spread: dict[str, float]
    limit: float
    rate: float

    def digest(self) -> str:
        """Hash of its content, hexadecimal."""
        rest = json.dumps([self.categories, self.middle, self.spread, self.limit, self.rate], sort_keys=True)
        content = b"".join(each.tobytes() for each in (self.bank, self.mean, self.deviation))
        return hashlib.sha256(content + rest.encode()).hexdigest()[:24]

    def doubt(self, look: Look) -> str:
        """Why an image is unlike those of the calibration, as a sentence; "" where it is like them."""
        if look.category and self.categories and look.category not in self.categories:
            return f"it is said to be of another kind of part ({look.category}) than those that it was calibrated on"
        away = distance((look.patches - self.mean) / self.deviation, self.bank)
        values = _values(away, look, self.deviation)
        apart = {name: (values[name] - self.middle[name]) / self.spread[name] for name in self.middle if name in values}
        worst = max(apart, key=lambda name: _apart(name, apart[name]))
        return "" if _apart(worst, apart[worst]) <= self.limit else _SIGNED[worst][int(apart[worst] < 0.0)]


def learn(looks: Sequence[Look], *, rate: float, seed: int = 0) -> Familiarity:
    """What good images look like; each one's patches are measured against a bank of the others.

    Args:
      looks: Of the images; all with references, or none.
      rate: Share of such images that may be called unfamiliar. Of n images the least is 1 / (n + 1), which is taken
        where it is larger.
      seed: Of the draw of the bank's patches.

    Raises:
      ValueError: There are fewer than four images.
    """
    number = len(looks)
    if number < _LEAST_IMAGES:
        raise ValueError(f"{number} images are too few to tell what others look like: give {_LEAST_IMAGES} or more")
    rng = np.random.default_rng(seed)
    every = np.stack([look.patches for look in looks]).astype(np.float32)
    mean, deviation = every.mean(axis=(0, 1)), np.maximum(every.std(axis=(0, 1)), _LEAST_DEVIATION)
    patches = (every - mean) / deviation
    folds = np.arange(number) % min(number, _MOST_FOLDS)
    away = np.zeros(number)
    for fold in range(folds.max() + 1):
        others = patches[folds != fold]
        bank = bank_of(others, _BANK * len(others) // number, rng)
        away[folds == fold] = [distance(each, bank) for each in patches[folds == fold]]
    values = [_values(far, look, deviation) for far, look in zip(away, looks, strict=True)]
    columns = {name: np.asarray([value[name] for value in values]) for name in values[0]}
    largest = np.zeros(number)
    for fold in range(folds.max() + 1):
        middle, spread = _middle_and_spread({name: column[folds != fold] for name, column in columns.items()})
        apart = [_apart(name, column[folds == fold] - middle[name]) / spread[name] for name, column in columns.items()]
        largest[folds == fold] = np.max(apart, axis=0)
    passed = min(math.ceil((number + 1) * (1.0 - rate) - 1e-9), number)
    middle, spread = _middle_and_spread(columns)
    categories = {look.category for look in looks}
    return Familiarity(
        bank=bank_of(patches, _BANK, rng),
        mean=mean,
        deviation=deviation,
        categories=() if "" in categories else tuple(sorted(categories)),
        middle=middle,
        spread=spread,
        limit=max(_LEAST_LIMIT, float(np.sort(largest)[passed - 1])),
        rate=1.0 - passed / (number + 1),
    )


def _middle_and_spread(columns: dict[str, Float[np.ndarray, " I"]]) -> tuple[dict[str, float], dict[str, float]]:
    """By measure: the median of some images, and what nine tenths of them are apart from it at most."""
    middle = {name: float(np.median(column)) for name, column in columns.items()}
    apart = {name: _apart(name, column - middle[name]) for name, column in columns.items()}
    return middle, {name: max(float(np.quantile(far, 0.9)), _LEAST_SPREAD[name]) for name, far in apart.items()}


def distance(patches: Patches, bank: Float[np.ndarray, "G E"]) -> float:
    """Mean distance of an image's patches to the nearest one of a bank, the farthest quarter left out."""
    return _nearest_of(np.sqrt(np.maximum(_squared(patches, bank).min(axis=1), 0.0)))


def match(look: Look, deviation: Float[np.ndarray, " E"]) -> float:
    """Mean distance of an image's patches to those of its reference, the farthest quarter left out.

    Each patch is compared with the one at its place and the eight around it, of several references with the best.
    """
    side = np.arange(CELLS)
    near = [np.clip(side + step, 0, CELLS - 1) for step in (-1, 0, 1)]
    grids = [(each / deviation).reshape(CELLS, CELLS, -1) for each in (look.patches, *look.references)]
    apart = [
        np.sum(np.square(grids[0] - other[np.ix_(rows, columns)]), axis=-1)
        for other in grids[1:]
        for rows in near
        for columns in near
    ]
    return _nearest_of(np.sqrt(np.min(apart, axis=0)).ravel())


def bank_of(patches: Float[np.ndarray, "_ M E"], size: int, rng: np.random.Generator) -> Float[np.ndarray, "G E"]:
    """Patches of images, at most `size` of them, drawn alike from all."""
    pool = patches.reshape(-1, patches.shape[-1]).astype(np.float32)
    return pool if len(pool) <= size else pool[np.sort(rng.choice(len(pool), size, replace=False))]


def _nearest_of(distances: Float[np.ndarray, " M"]) -> float:
    """Mean of the smallest three quarters."""
    counted = math.ceil(_COUNTED * len(distances))
    return float(np.mean(np.partition(distances, counted - 1)[:counted]))


def _squared(some: Float[np.ndarray, "_ E"], others: Float[np.ndarray, "_ E"]) -> Float[np.ndarray, "_ _"]:
    """Squares of the distances of each to each."""
    some, others = some.astype(np.float32), others.astype(np.float32)
    lengths = [np.einsum("ie,ie->i", each, each) for each in (some, others)]
    found = some @ (-2.0 * others.T)
    found += lengths[0][:, None]
    found += lengths[1]
    return found


def _apart(name: str, difference: Any) -> Any:
    """How far a measure is from its middle, in the direction that counts."""
    return difference if name in _ONE_SIDED else abs(difference)


def _values(patches: float, look: Look, deviation: Float[np.ndarray, " E"]) -> dict[str, float]:
    found = {"patches": patches, "sharpness": look.sharpness, "brightness": look.brightness, "size": look.size}
    return {**found, "match": match(look, deviation)} if look.references else found
