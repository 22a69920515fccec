"""Time and memory of the pixel metrics of anomaly maps, beside scikit-learn's AUROC on the same pixels.

python -m bench.pixel_metrics --maps 1000 --side 512
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from sage_jax.metrics.pixels import pixel_metrics
from sage_jax.process.peak_memory import PeakMemory


class _Maps(Sequence[np.ndarray]):
    """Random maps, or their masks with one to four regions in nine of ten images, made when asked for."""

    def __init__(self, number: int, side: int, *, masks: bool) -> None:
        self._number, self._side, self._masks = number, side, masks

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        if index >= self._number:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        mask = np.zeros((self._side, self._side), np.bool_)
        for _ in range(rng.integers(1, 5) if index % 10 else 0):
            top, left = rng.integers(0, self._side - self._side // 8, 2)
            mask[top : top + rng.integers(2, self._side // 8), left : left + rng.integers(2, self._side // 8)] = True
        if self._masks:
            return mask
        return rng.random(mask.shape, np.float32) + np.float32(0.3) * mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512)
    args = parser.parse_args()
    maps, masks = (_Maps(args.maps, args.side, masks=which) for which in (False, True))
    start = time.perf_counter()
    for index in range(args.maps):
        _ = maps[index], masks[index]
    making = time.perf_counter() - start
    start = time.perf_counter()
    with PeakMemory() as peak:
        found = pixel_metrics(maps, masks, range(args.maps), samples=1000)
    ours = time.perf_counter() - start - 2 * making  # maps and masks are read twice
    for name, metric in found.items():
        print(f"{name:24} {metric.value:.6f} [{metric.low:.6f}, {metric.high:.6f}]")
    print(f"{args.maps} maps of {args.side} px: {ours:.0f} s with intervals, peak {peak.gigabytes:.1f} GB")
    start = time.perf_counter()
    pixels = [(maps[index].ravel(), masks[index].ravel()) for index in range(args.maps)]
    theirs = roc_auc_score(np.concatenate([mask for _, mask in pixels]), np.concatenate([each for each, _ in pixels]))
    print(f"scikit-learn: AUROC {theirs:.6f} alone in {time.perf_counter() - start - making:.0f} s")


if __name__ == "__main__":
    main()
