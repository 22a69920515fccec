"""Rivals on surfaces: a spot unlike its surface is found, and a surface of another seed is not taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from bench.texture_rivals import scores_of, statistics
from sage_jax.data.images import encode_png


def surface(seed: int, *, spotted: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    plane = 128.0 + 60.0 * ndimage.gaussian_filter(rng.standard_normal((64, 64)), 1.0)
    if spotted:
        plane[20:40, 25:45] = ndimage.gaussian_filter(plane, 4.0)[20:40, 25:45] + 40.0
    return np.repeat(np.clip(plane, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_a_spot_that_is_unlike_its_surface_scores_highest(tmp_path: Path) -> None:
    for name, number, first in (("train/good", 8, 0), ("test/good", 6, 50), ("test/spot", 6, 90)):
        (tmp_path / name).mkdir(parents=True)
        for index in range(number):
            pixels = surface(first + index, spotted="spot" in name)
            (tmp_path / name / f"{index}.png").write_bytes(encode_png(pixels))
    labels, scores = scores_of(tmp_path, statistics)
    assert labels.tolist() == [False] * 6 + [True] * 6
    assert roc_auc_score(labels, scores) > 0.95
    assert abs(np.median(scores[:6])) < 6.0  # in deviations of four good images
