"""Annotated images of nothing: black pictures with drawn boxes of given types."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

from sage_jax.data.records import AnnotatedImage, Box, Defect


def plain_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def annotated(index: int, rng: random.Random, category: str, types: list[str], *, most: int = 2) -> AnnotatedImage:
    """An image, defective when the index is even, of random places and of types drawn from those given."""
    defects = []
    for _ in range(0 if index % 2 else rng.randint(1, most)):
        left, top = rng.randrange(80), rng.randrange(40)
        box = Box(left, top, left + rng.randint(4, 16), top + rng.randint(4, 20))
        defects.append(Defect(rng.choice(types), box))
    picture = plain_png(96, 60)
    return AnnotatedImage(f"t-{index}", picture, None, category, tuple(defects), None, "t.png", "")
