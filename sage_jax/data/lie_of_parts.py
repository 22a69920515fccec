"""How the parts of good images lie against their references, and what of the config that speaks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from sage_jax.config import DataConfig
from sage_jax.data.images import ImageFault, decode_rgb
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.registration import LEAST_MATCH, Motion, find_motion

LOOKED_AT: Final = 24
"""Images that are looked at, the first ones."""
_MANY: Final = 0.5
"""Share of moved images from which a whole data set counts as unregistered."""


def lie_of_parts(images: Iterable[AnnotatedImage | Fault], data: DataConfig, *, similarity: str) -> str:
    """Whether good images lie as their references do, as a sentence for the log; "" where none has another image.

    Args:
      images: Of a training split, with references as they are stored.
      data: What the run does with them: `register`.
      similarity: `model.fusion.similarity`.
    """
    motions = list(itertools.islice(_motions(images), LOOKED_AT))
    if not motions:
        return ""
    match, unmoved = (float(np.median([getattr(each, name) for each in motions])) for name in ("match", "unmoved"))
    moved = [each for each in motions if not each.still]
    if match < LEAST_MATCH:
        cure = (
            ""
            if similarity == "max"
            else (
                ": for surfaces without position set model.fusion.similarity=max, data.num_references=4 or more and "
                "data.register=none"
            )
        )
        return f"{len(motions)} good images match their references nowhere (correlation {match:.2f}){cure}"
    if not moved:
        return f"{len(motions)} good images lie as their references do (correlation {match:.2f})"
    turn = np.rad2deg(np.median([abs(each.turn) for each in moved]))
    shift = 100.0 * np.median([max(abs(each.down), abs(each.across)) for each in moved])
    lie = (
        f"{len(moved)} of {len(motions)} good images lie otherwise than their references, turned by {turn:.1f} degrees "
        f"and shifted by {shift:.1f} % of the side at the median: correlation {unmoved:.2f} as they lie, {match:.2f} "
        "if moved"
    )
    if data.register == "rigid":
        return f"{lie}; data.register=rigid moves the references"
    cure = "; data.register=rigid would move the references" if len(moved) >= _MANY * len(motions) else ""
    return lie + cure


def _motions(images: Iterable[AnnotatedImage | Fault]) -> Iterator[Motion]:
    """How the reference of each good image would be moved."""
    for image in images:
        if isinstance(image, Fault) or image.defects or image.reference_image in (None, image.test_image):
            continue
        try:
            test, reference = (decode_rgb(each or b"", name="") for each in (image.test_image, image.reference_image))
        except ImageFault:
            continue  # told of the image itself
        yield find_motion(test, reference)
