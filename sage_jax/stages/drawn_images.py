"""Good images with defects drawn into them, as images to inspect: what a score is learnt on without real defects."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Final

import numpy as np

from sage_jax.data.drawing.draw import DRAWN, VERSION, draw_defects
from sage_jax.data.images import encode_png, remembered_rgb
from sage_jax.data.records import Record
from sage_jax.inspection.images import Images, InputImage

_MADE: Final = f"{DRAWN}{VERSION}"


class DrawnImages:
    """Each of some good images once more, with one or two defects drawn into it; references stay as they are.

    Args:
      images: Good ones.
      seed: Of the draws, which depend on it and on an image's number alone.
    """

    def __init__(self, images: Images, seed: int) -> None:
        self._images, self._seed = images, seed

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return hashlib.sha256(f"{self._images.key(index)}{_MADE}".encode()).hexdigest()[:16]

    def stamp(self, index: int) -> str:
        return f"{self._images.stamp(index)}; {_MADE}-{self._seed}-{index}"

    def read(self, index: int) -> InputImage:
        image = self._images.read(index)
        if image.record is None:
            return image
        picture, donor = (_picture_of(each) for each in (image.record, self._donor(index) or image.record))
        drawn, _ = draw_defects(picture, donor, np.random.default_rng([VERSION, self._seed, index]))
        pixels = encode_png((drawn * 255.0 + 0.5).astype(np.uint8))
        path = f"{image.path}{_MADE}"
        record = dataclasses.replace(image.record, test_image=pixels, test_path=path, record_id=path, image_id=path)
        return dataclasses.replace(image, path=path, record=record)

    def _donor(self, index: int) -> Record | None:
        """Another image of the set, that patches come from."""
        return self._images.read((index + 1) % len(self)).record


def _picture_of(record: Record) -> np.ndarray:
    return remembered_rgb(record.test_image, name=record.test_path, keep=False).astype(np.float32) / 255.0
