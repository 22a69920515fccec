"""Boxes of the peaks of an anomaly map."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sage_jax.axes import Float
from sage_jax.metrics.pixels import checked_map


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
    values = checked_map(anomaly_map, 0)
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
