"""What a plain rival reads on surfaces without position: a memory bank of patch statistics.

    python -m bench.texture_folders --out textures
    python -m bench.texture_rivals --folder textures

Of each surface the good images of `train/good` make the bank; an image scores the largest distance of any of its
patches to the nearest one of the bank (PatchCore without a trained network, Roth et al. 2022). Prints AUROC by surface,
and over all, of scores standardised by the surface's own training images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from sklearn.metrics import roc_auc_score

from sage_jax.axes import Float
from sage_jax.data.images import decode_rgb

_SCALES: Final = (0.7, 1.4, 2.8, 5.6)
"""Deviations of the Gaussians, px."""
_POOL: Final = 3.0
_STRIDE: Final = 4
_MOST: Final = 20_000
"""Patches of a bank."""

Plane = Float[np.ndarray, "H W"]
Features = Float[np.ndarray, "H W E"]


def main() -> None:
    """Prints a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="what bench.texture_folders wrote")
    options = parser.parse_args()
    surfaces = sorted(path for path in Path(options.folder).iterdir() if path.is_dir())
    found = {surface.name: scores_of(surface, statistics) for surface in surfaces}
    line: dict[str, object] = {"what": "texture_rivals", "rival": "statistics"}
    line |= {surface: round(roc_auc_score(labels, scores), 3) for surface, (labels, scores) in found.items()}
    labels, scores = (np.concatenate([each[part] for each in found.values()]) for part in (0, 1))
    print(json.dumps(line | {"all": round(roc_auc_score(labels, scores), 3), "images": len(labels)}), flush=True)


def scores_of(surface: Path, features: Callable[[Plane], Features]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (True = defective) and scores of a surface's test images."""
    good = [features(plane) for plane in _planes(surface / "train" / "good")]
    every = np.concatenate([each.reshape(-1, each.shape[-1]) for each in good])
    middle, spread = every.mean(axis=0), every.std(axis=0) + 1e-6

    def scaled(each: Features) -> Features:
        return (each - middle) / spread

    half = len(good) // 2
    # Of the training images one half is scored by the other: what a good image of this surface scores.
    own = [score(scaled(each), bank_of([scaled(one) for one in good[:half]])) for each in good[half:]]
    bank = bank_of([scaled(each) for each in good])
    labels, scores = [], []
    for folder in sorted((surface / "test").iterdir()):
        for plane in _planes(folder):
            labels.append(folder.name != "good")
            scores.append(score(scaled(features(plane)), bank))
    return np.asarray(labels), (np.asarray(scores) - np.mean(own)) / (np.std(own) + 1e-6)


def bank_of(images: list[Features]) -> KDTree:
    """The patches of images, at most 20,000 of them."""
    every = np.concatenate([each.reshape(-1, each.shape[-1]) for each in images])
    if len(every) > _MOST:
        every = every[np.random.default_rng(0).choice(len(every), _MOST, replace=False)]
    return KDTree(every)


def score(features: Features, bank: KDTree) -> float:
    """Largest distance of a patch to the bank, the map smoothed over a patch or so."""
    height, width, number = features.shape
    away = np.asarray(bank.query(features.reshape(-1, number))[0]).reshape(height, width)
    return float(ndimage.gaussian_filter(away, 1.0).max())


def statistics(plane: Plane) -> Features:
    """Brightness, and the energy of edges and spots of four sizes, about every fourth pixel."""
    found = [ndimage.gaussian_filter(plane, _POOL)]
    for scale in _SCALES:
        across = _slope(plane, scale, 1)
        down = _slope(plane, scale, 0)
        spot = ndimage.gaussian_laplace(plane, scale) * scale**2
        parts = (across, down, across + down, across - down)
        energies = [*map(np.abs, parts), np.maximum(spot, 0.0), np.maximum(-spot, 0.0)]
        found += [np.log(ndimage.gaussian_filter(each, _POOL) + 1.0) for each in energies]
    return np.stack(found, axis=-1)[_STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]


def _slope(plane: Plane, scale: float, axis: int) -> Plane:
    """Derivative of the smoothed plane along an axis, a `scale`."""
    smooth = ndimage.gaussian_filter1d(plane, scale, axis=1 - axis)
    return ndimage.gaussian_filter1d(smooth, scale, axis=axis, order=1) * scale


def _planes(folder: Path) -> list[Plane]:
    return [
        decode_rgb(path.read_bytes(), name=str(path)).astype(np.float32).mean(axis=-1)
        for path in sorted(folder.iterdir())
    ]


if __name__ == "__main__":
    main()
