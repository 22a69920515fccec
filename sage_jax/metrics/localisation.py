"""Localisation: pixel AUROC of anomaly maps, and the boxes of a map's peaks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import ndimage

from sage_jax.axes import Float, Int
from sage_jax.metrics.intervals import UNDEFINED, Metric, bootstrap

_NUM_BINS = 4096
_EDGE_PIXELS = 4_000_000
_ROWS = 64


def pixel_auroc(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Metric:
    """AUROC of anomaly maps over all pixels of all images with a known mask, 0 to 1, with an interval over images.

    n counts images. Undefined where no mask is known, or all known pixels are of one class.

    Pixels are counted in 4096 bins of equal content, and those of one bin take as tied, so that memory depends on the
    number of images, not of pixels. Few distinct values are told apart exactly; else the error is below half of the
    largest share of good pixels in a bin, about 1e-4. Both sequences are read twice and may load an item when asked.

    Args:
      maps: Anomaly maps [H, W] of the images, larger = more anomalous, comparable between images.
      masks: True = anomalous, the map's size; None where unknown. A good image has an all-False mask.
      groups: Image of each map, where several maps show the same image.

    Raises:
      ValueError: Lengths or sizes differ, or a map is not finite.
    """
    if not len(maps) == len(masks) == len(groups):
        raise ValueError(f"{len(maps)} maps, {len(masks)} masks, {len(groups)} groups: give one of each per image")
    known = [index for index, mask in enumerate(masks) if mask is not None]
    if not known:
        return UNDEFINED
    edges = _bin_edges(maps, known)
    anomalous = np.zeros((len(known), len(edges) + 1))
    good = np.zeros_like(anomalous)
    for row, index in enumerate(known):
        values, mask = _checked(maps[index], index), np.asarray(masks[index], bool)
        if values.shape != mask.shape:
            raise ValueError(f"map {index} is {values.shape}, its mask {mask.shape}: resize the map to the mask")
        anomalous[row] = _histogram(values[mask], edges)
        good[row] = _histogram(values[~mask], edges)

    def statistic(weights: np.ndarray) -> np.ndarray:
        rows = [weights[start : start + _ROWS] for start in range(0, len(weights), _ROWS)]
        return np.concatenate([_binned_auroc(row @ anomalous, row @ good) for row in rows])

    return bootstrap(statistic, [groups[index] for index in known], samples=samples, seed=seed)


def peak_boxes(
    anomaly_map: Float[np.ndarray, "H W"], *, threshold: float, max_boxes: int
) -> list[tuple[int, int, int, int, float]]:
    """Boxes (left, top, right, bottom, score) of the regions where a map reaches a threshold, highest peak first.

    A region is 8-connected; its score is its largest value. Right and bottom are exclusive, in pixels of the map.
    Nothing reaches the threshold: no boxes.

        0.1 0.9 0.1
        0.1 0.8 0.1    threshold 0.5  ->  [(1, 0, 2, 2, 0.9)]
        0.1 0.1 0.1

    Raises:
      ValueError: The map is not finite.
    """
    values = _checked(anomaly_map, 0)
    labels = np.zeros(values.shape, np.int32)
    ndimage.label(values >= threshold, structure=np.ones((3, 3)), output=labels)
    count = int(labels.max(initial=0))
    peaks = np.atleast_1d(ndimage.maximum(values, labels, index=np.arange(1, count + 1))) if count else np.zeros(0)
    boxes = []
    for index in np.argsort(-peaks, kind="stable")[:max_boxes]:
        rows, columns = np.nonzero(labels == index + 1)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append((int(left), int(top), int(right), int(bottom), float(peaks[index])))
    return boxes


def _binned_auroc(anomalous: Float[np.ndarray, "S b"], good: Float[np.ndarray, "S b"]) -> Float[np.ndarray, " S"]:
    """AUROC from pixel counts in ascending bins; NaN where one class is empty."""
    below = np.cumsum(good, axis=-1) - good / 2
    pairs = anomalous.sum(axis=-1) * good.sum(axis=-1)
    return np.divide((anomalous * below).sum(axis=-1), pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def _checked(anomaly_map: np.ndarray, index: int) -> np.ndarray:
    values = np.asarray(anomaly_map, np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"map {index}: expected finite values [H, W], got shape {values.shape} or values not finite")
    return values


def _bin_edges(maps: Sequence[np.ndarray], known: Sequence[int]) -> Float[np.ndarray, " e"]:
    """Lower edges of all bins but the first: between all values where they are few, else quantiles of the pixels."""
    share = max(1, _EDGE_PIXELS // len(known))
    taken = []
    for index in known:
        values = _checked(maps[index], index).ravel()
        # A copy: a view would keep the whole map.
        taken.append(values[:: -(-values.size // share)].copy() if values.size else values)
    pixels = np.sort(np.concatenate(taken))
    distinct = np.unique(pixels)
    if len(distinct) <= _NUM_BINS:
        return distinct[1:]
    return np.unique(pixels[np.linspace(0, len(pixels) - 1, _NUM_BINS + 1).astype(int)[1:-1]])


def _histogram(values: np.ndarray, edges: np.ndarray) -> Int[np.ndarray, " b"]:
    """Values in each bin; a value equal to an edge belongs to the bin above it."""
    below = np.searchsorted(np.sort(values), edges, side="left")
    return np.diff(below, prepend=0, append=len(values))
