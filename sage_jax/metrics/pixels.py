"""Localisation over all pixels of a test set: AUROC, average precision, F1 and per-region overlap of anomaly maps."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool, Float, Int
from sage_jax.metrics.intervals import UNDEFINED, Metric, bootstrap

PIXEL_METRICS: Final = ("pixel_auroc", "pixel_average_precision", "pixel_f1_max", "aupro")
FALSE_POSITIVE_LIMIT: Final = 0.3
"""Rate of false positives up to which `aupro` takes the area, as MVTec AD's own evaluation does."""

_EXACT_PIXELS: Final = 2**28
_NUM_BINS: Final = 4096
_EDGE_PIXELS: Final = 4_000_000
_ROWS: Final = 64
_EIGHT_CONNECTED: Final = np.ones((3, 3))


def pixel_metrics(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Metric]:
    """`PIXEL_METRICS` over all pixels of all images with a known mask, each 0 to 1 with an interval over images.

    `pixel_auroc`, `pixel_average_precision` and `pixel_f1_max` (the F1 at its best threshold) are scikit-learn's and
    anomalib's on the pixels of all images together. `aupro` is the area under the curve of the mean overlap with each
    8-connected region of the masks against the rate of false positive pixels, up to a rate of 0.3, over 0.3: MVTec AD's
    and anomalib's.

    The values are exact up to 2^28 pixels, four bytes each. Beyond that, and for the intervals always, pixels are
    counted in 4096 bins of equal content, those of one bin as tied, which moves them by about 1e-4. n counts images.
    Undefined where no mask is known, or all known pixels are of one class. Both sequences are read twice and may load
    an item when asked.

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
        return dict.fromkeys(PIXEL_METRICS, UNDEFINED)
    counts = _Counts(_bin_edges(maps, known), len(known))
    for row, index in enumerate(known):
        values, mask = checked_map(maps[index], index), np.asarray(masks[index], bool)
        if values.shape != mask.shape:
            raise ValueError(f"map {index} is {values.shape}, its mask {mask.shape}: resize the map to the mask")
        counts.add(row, values, mask)
    exact = counts.exact()
    found = {}
    for position, name in enumerate(PIXEL_METRICS):
        drawn = bootstrap(
            lambda weights, at=position: counts.weighted(weights)[at],
            [groups[index] for index in known],
            samples=samples,
            seed=seed,
        )
        found[name] = drawn if exact is None else _about(drawn, float(exact[position]))
    return found


def _about(drawn: Metric, value: float) -> Metric:
    """The exact value with the interval that was drawn in bins, moved by what the bins moved the value."""
    if np.isnan(value) or drawn.value is None or drawn.low is None or drawn.high is None:
        return drawn
    low, high = (min(max(end + value - drawn.value, 0.0), 1.0) for end in (drawn.low, drawn.high))
    return Metric(value, low, high, drawn.n)


def checked_map(anomaly_map: np.ndarray, index: int) -> Float[np.ndarray, "H W"]:
    """The map as float32.

    Raises:
      ValueError: It is no array of two axes, or not finite; the message has `index`.
    """
    values = np.asarray(anomaly_map, np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"map {index}: expected finite values [H, W], got shape {values.shape} or values not finite")
    return values


class _Counts:
    """Pixels of some images, by bin of their value for each image, and all of them as long as they are few."""

    def __init__(self, edges: Float[np.ndarray, " e"], num_images: int) -> None:
        self._edges = edges
        shape = (num_images, len(edges) + 1)
        self._anomalous, self._good, self._overlap = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._regions = np.zeros(num_images)
        self._pixels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = []
        self._num_pixels = 0

    def add(self, row: int, values: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> None:
        """Counts the pixels of an image."""
        good, anomalous = values[~mask], values[mask]
        share = _region_shares(mask)
        bins = np.searchsorted(self._edges, anomalous, side="right")
        self._anomalous[row] = np.bincount(bins, minlength=self._anomalous.shape[1])
        self._overlap[row] = np.bincount(bins, weights=share, minlength=self._anomalous.shape[1])
        self._good[row] = _histogram(good, self._edges)
        self._regions[row] = round(float(share.sum()))
        self._num_pixels += values.size
        if self._num_pixels > _EXACT_PIXELS:
            self._pixels = None
        elif self._pixels is not None:
            self._pixels.append((good, anomalous, share))

    def weighted(self, weights: Float[np.ndarray, "S n"]) -> Float[np.ndarray, "4 S"]:
        """The metrics of weighted images, pixels of one bin taken as tied."""
        parts = []
        for start in range(0, len(weights), _ROWS):
            row = weights[start : start + _ROWS]
            anomalous, good, overlap = (
                (row @ counts)[:, ::-1] for counts in (self._anomalous, self._good, self._overlap)
            )
            after = np.cumsum(good, axis=-1)
            parts.append(_metrics(anomalous, overlap, after - good, after, after[:, -1], row @ self._regions))
        return np.concatenate(parts, axis=1)

    def exact(self) -> Float[np.ndarray, " 4"] | None:
        """The metrics from each pixel's own value; None where there are too many pixels."""
        if self._pixels is None:
            return None
        good = np.sort(np.concatenate([pixels[0] for pixels in self._pixels]))
        values, which = np.unique(np.concatenate([pixels[1] for pixels in self._pixels]), return_inverse=True)
        shares = np.concatenate([pixels[2] for pixels in self._pixels])
        self._pixels = None  # read once
        anomalous, overlap = np.bincount(which)[::-1], np.bincount(which, weights=shares)[::-1]
        before, after = (len(good) - np.searchsorted(good, values[::-1], side=side) for side in ("right", "left"))
        found, shared, above, at_least = (
            np.asarray(each, np.float64)[None] for each in (anomalous, overlap, before, after)
        )
        all_good, regions = np.asarray([float(len(good))]), np.asarray([self._regions.sum()])
        return _metrics(found, shared, above, at_least, all_good, regions)[:, 0]


def _metrics(
    anomalous: Float[np.ndarray, "S k"],
    overlap: Float[np.ndarray, "S k"],
    before: Float[np.ndarray, "S k"],
    after: Float[np.ndarray, "S k"],
    good: Float[np.ndarray, " S"],
    regions: Float[np.ndarray, " S"],
) -> Float[np.ndarray, "4 S"]:
    """`PIXEL_METRICS` from pixels grouped by value, largest value first; NaN where a class is empty.

    Args:
      anomalous: Anomalous pixels of each group.
      overlap: Sum over them of 1 / size of their region.
      before, after: Good pixels of larger values, and of values as large as the group's or larger.
      good: All good pixels.
      regions: All regions.
    """
    if not anomalous.shape[1]:
        return np.full((len(PIXEL_METRICS), len(good)), np.nan)
    found = np.cumsum(anomalous, axis=-1)
    total, negatives = found[:, -1:], good[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (anomalous * (negatives - (before + after) / 2)).sum(axis=-1) / (total * negatives)[:, 0]
        precision = found / np.maximum(found + after, 1e-12)
        average = (anomalous * precision).sum(axis=-1) / total[:, 0]
        f1 = (2 * found / np.maximum(found + after + total, 1e-12)).max(axis=-1)
        # A group's pixels come in linearly while the rate of false positives goes from that before it to that after it.
        begin, end, limit = before / negatives, after / negatives, FALSE_POSITIVE_LIMIT
        cut = (limit - begin) ** 2 / np.maximum(2 * (end - begin), 1e-300)
        area = np.where(end <= limit, limit - (begin + end) / 2, np.where(begin < limit, cut, 0.0))
        aupro = (overlap * area).sum(axis=-1) / (regions * limit)
    each = np.stack([auroc, average, f1, aupro])
    return np.where((total[:, 0] > 0) & (good > 0), each, np.nan)


def _region_shares(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, " p"]:
    """1 / size of its region for each anomalous pixel, in the mask's order."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, structure=_EIGHT_CONNECTED, output=labels)
    of_pixel = labels[mask]
    return 1.0 / np.bincount(of_pixel)[of_pixel] if of_pixel.size else np.zeros(0)


def _bin_edges(maps: Sequence[np.ndarray], known: Sequence[int]) -> Float[np.ndarray, " e"]:
    """Lower edges of all bins but the first: between all values where they are few, else quantiles of the pixels."""
    share = max(1, _EDGE_PIXELS // len(known))
    taken = []
    for index in known:
        values = checked_map(maps[index], index).ravel()
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
