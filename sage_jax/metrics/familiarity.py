"""Whether an image is like those that a model was calibrated on; of one that is not, the score means nothing.

Patches are compared with a memory bank of good ones, a greedy coreset (PatchCore, Roth et al. 2022), and three plainer
measures stand beside them. The limit is that of split conformal prediction over the largest standardised measure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy import ndimage

from sage_jax.axes import Float, UInt8

_BANK: Final = 1024
_CANDIDATES: Final = 16384
"""Patches among which the coreset is sought."""
_FOLDS: Final = 2

_LEAST_SPREAD: Final = {"patches": 0.005, "match": 0.005, "sharpness": 0.1, "brightness": 0.01}
"""By measure: below this, images do not differ in anything that matters."""
_SIGNED: Final = {
    "patches": ("its patches are unlike those of the good images that it was calibrated on",) * 2,
    "match": ("it does not match its reference", ""),
    "sharpness": ("it is sharper than the images that it was calibrated on", "it is less sharp than those"),
    "brightness": ("it is brighter than the images that it was calibrated on", "it is darker than those"),
}
_ONE_SIDED: Final = ("patches", "match")

Features = Float[np.ndarray, "M E"]


@dataclasses.dataclass(frozen=True)
class Look:
    """What is measured of an image beside its patches.

    Attributes:
      match: Median of the anomaly map, which a defect does not raise; None without a reference.
      sharpness: Logarithm of the deviation of the Laplacian of grey values, 0 to 1.
      brightness: Mean grey value, 0 to 1.
    """

    match: float | None
    sharpness: float
    brightness: float


def look_at(pixels: UInt8[np.ndarray, "H W 3"], match: float | None) -> Look:
    """The look of an image."""
    grey = pixels.astype(np.float32).mean(axis=-1) / 255.0
    return Look(match, math.log(float(ndimage.laplace(grey).std()) + 1e-3), float(grey.mean()))


@dataclasses.dataclass(frozen=True)
class Familiarity:
    """What calibration images look like, and how far another may be from them.

    Attributes:
      bank: Patches of good images, each of length 1.
      middle, spread: By measure: median, and what nine tenths of the images are apart from it at most: above it for
        patches and match, to either side for the others. So no measure with a long tail stands for all.
      limit: Of the largest distance of a measure from its middle, in spreads.
      rate: Share of images like those of the calibration that are called unfamiliar, on average over calibrations.
    """

    bank: Float[np.ndarray, "G E"]
    middle: dict[str, float]
    spread: dict[str, float]
    limit: float
    rate: float

    def digest(self) -> str:
        """Hash of its content, hexadecimal."""
        rest = json.dumps([self.middle, self.spread, self.limit, self.rate], sort_keys=True)
        return hashlib.sha256(self.bank.tobytes() + rest.encode()).hexdigest()[:24]

    def doubt(self, features: Features, look: Look) -> str:
        """Why an image is unlike those of the calibration, as a sentence; "" where it is like them."""
        values = _values(distance(features, self.bank), look)
        apart = {name: (values[name] - self.middle[name]) / self.spread[name] for name in self.middle}
        worst = max(apart, key=lambda name: _apart(name, apart[name]))
        return "" if _apart(worst, apart[worst]) <= self.limit else _SIGNED[worst][int(apart[worst] < 0.0)]


def learn(features: Sequence[Features], looks: Sequence[Look], *, rate: float, seed: int = 0) -> Familiarity:
    """What good images look like; each one's patches are measured against a bank of the others.

    Args:
      features: Of the patches of each image.
      looks: Of the same images; all with a match, or none.
      rate: Share of such images that may be called unfamiliar. Of n images the least is 1 / (n + 1), which is taken
        where it is larger.
      seed: Of the draw of candidates for the bank.

    Raises:
      ValueError: There are fewer than four images.
    """
    number = len(features)
    if number < 2 * _FOLDS:
        raise ValueError(f"{number} images are too few to tell what others should look like: give {2 * _FOLDS} or more")
    rng = np.random.default_rng(seed)
    away = np.zeros(number)
    for fold in range(_FOLDS):
        bank = coreset([each for index, each in enumerate(features) if index % _FOLDS != fold], _BANK, rng)
        for index in range(fold, number, _FOLDS):
            away[index] = distance(features[index], bank)
    values = [_values(far, look) for far, look in zip(away, looks, strict=True)]
    columns = {name: np.asarray([value[name] for value in values]) for name in values[0]}
    middle = {name: float(np.median(column)) for name, column in columns.items()}
    apart = {name: _apart(name, column - middle[name]) for name, column in columns.items()}
    spread = {name: max(float(np.quantile(far, 0.9)), _LEAST_SPREAD[name]) for name, far in apart.items()}
    largest = np.sort(np.max([far / spread[name] for name, far in apart.items()], axis=0))
    passed = min(math.ceil((number + 1) * (1.0 - rate) - 1e-9), number)
    return Familiarity(
        bank=coreset(features, _BANK, rng),
        middle=middle,
        spread=spread,
        limit=float(largest[passed - 1]),
        rate=1.0 - passed / (number + 1),
    )


def distance(features: Features, bank: Float[np.ndarray, "G E"]) -> float:
    """Mean over patches of 1 - cosine to the nearest patch of a bank."""
    return float(np.mean(1.0 - (_unit(features) @ bank.T).max(axis=1)))


def coreset(features: Sequence[Features], size: int, rng: np.random.Generator) -> Float[np.ndarray, "G E"]:
    """Patches of length 1 that cover all: each in turn the one farthest from those chosen (greedy k-center)."""
    pool = _unit(np.concatenate(list(features)))
    if len(pool) > _CANDIDATES:
        pool = pool[np.sort(rng.choice(len(pool), _CANDIDATES, replace=False))]
    if len(pool) <= size:
        return pool
    chosen = np.zeros(size, np.int64)
    nearest = pool @ pool[0]
    for index in range(1, size):
        chosen[index] = int(nearest.argmin())
        nearest = np.maximum(nearest, pool @ pool[chosen[index]])
    return pool[chosen]


def _apart(name: str, difference: Any) -> Any:
    """How far a measure is from its middle, in the direction that counts."""
    return difference if name in _ONE_SIDED else abs(difference)


def _values(patches: float, look: Look) -> dict[str, float]:
    found = {"patches": patches, "sharpness": look.sharpness, "brightness": look.brightness}
    return found if look.match is None else {**found, "match": look.match}


def _unit(features: Float[np.ndarray, "_ E"]) -> Float[np.ndarray, "_ E"]:
    values = np.asarray(features, np.float32)
    return values / (np.linalg.norm(values, axis=-1, keepdims=True) + 1e-6)
