"""What needs no model: the absolute difference to the reference, as a map and as a score of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image
from scipy import ndimage

from sage_jax.axes import Float, UInt8
from sage_jax.data.images import remembered_rgb
from sage_jax.data.records import Record

BLUR_PX: Final = 2.0
"""Deviation of the Gaussian over the difference: a lone pixel of noise is no defect."""

COMPARED_PX: Final = 1024
"""Longer side at which the pixels of large images are compared: more would show no more, and take long."""


def difference_map(record: Record, longest: int = 0) -> Float[np.ndarray, "H W"]:
    """Absolute difference of test and reference in grey levels 0 to 255, mean over channels, blurred by `BLUR_PX`.

    Of several references the least at each pixel. A reference of another size is stretched to that of the test image.

    Args:
      longest: Longer side of the map, px, to which larger images are shrunk first; 0 = as they are.

    Raises:
      ImageFault: An image cannot be read.
      ValueError: The record has no reference.
    """
    if not record.references:
        raise ValueError(f"record {record.record_id} has no reference to differ from")
    whole = remembered_rgb(record.test_image, name=record.test_path, keep=False)
    test, found = _shrunk(whole, longest).astype(np.float32), []
    for each in record.references:
        reference = _stretched(remembered_rgb(each.image, name=each.path, keep=False), whole.shape[:2])
        apart = np.abs(test - _shrunk(reference, longest)).mean(axis=-1)
        found.append(np.asarray(ndimage.gaussian_filter(apart, BLUR_PX, mode="nearest"), np.float32))
    return np.minimum.reduce(found)


def difference_peak(record: Record) -> float:
    """The largest absolute difference of an image to its reference, 0 to 1; larger images at `COMPARED_PX`."""
    return float(difference_map(record, COMPARED_PX).max()) / 255.0


def _shrunk(image: UInt8[np.ndarray, "H W 3"], longest: int) -> UInt8[np.ndarray, "H W 3"]:
    height, width = image.shape[:2]
    if not 0 < longest < max(height, width):
        return image
    share = longest / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _stretched(image: UInt8[np.ndarray, "H W 3"], shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W 3"]:
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


class DifferenceMaps(Sequence[np.ndarray]):
    """Difference maps of records, made when asked for; the largest value of each is kept."""

    def __init__(self, records: Sequence[Record], advance: Callable[[int], None]) -> None:
        self._records, self._advance = records, advance
        self._scores: dict[int, float] = {}
        self._num_made = 0

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        found = difference_map(self._records[index])
        self._scores[index] = float(found.max())
        self._num_made += 1
        self._advance(self._num_made)
        return found

    def score(self, index: int) -> float:
        """Largest difference of an image."""
        return self._scores[index] if index in self._scores else float(difference_map(self._records[index]).max())
