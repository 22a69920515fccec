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
"""Share of images from which a whole data set counts as they do."""
_SEVERAL: Final = 4


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
    number, nowhere = len(motions), [each for each in motions if each.match < LEAST_MATCH]
    moved = [each for each in motions if not each.still]
    match, unmoved = (float(np.median([getattr(each, name) for each in motions])) for name in ("match", "unmoved"))
    if len(nowhere) >= _MANY * number:
        return f"{len(nowhere)} of {number} good images match their references nowhere{_for_surfaces(data, similarity)}"
    beside = f"; {len(nowhere)} match nowhere" if nowhere else ""
    if not moved:
        like = f"{number - len(nowhere)} of {number} good images lie as their references do"
        return f"{like} (correlation {match:.2f}){beside}"
    turn = np.rad2deg(np.median([abs(each.turn) for each in moved]))
    shift = 100.0 * np.median([max(abs(each.down), abs(each.across)) for each in moved])
    if data.register == "rigid":
        cure = "; data.register=rigid moves the references"
    else:
        cure = "; data.register=rigid would move the references" if len(moved) >= _MANY * number else ""
    return (
        f"{len(moved)} of {number} good images lie otherwise than their references, turned by {turn:.1f} degrees and "
        f"shifted by {shift:.1f} % of the side at the median: correlation {unmoved:.2f} as they lie, {match:.2f} if "
        f"moved{beside}{cure}"
    )


def _for_surfaces(data: DataConfig, similarity: str) -> str:
    """Which options, other than they are, serve surfaces without position."""
    wanted = {
        "model.fusion.similarity=max": similarity == "max",
        "data.num_references=4 or more": data.num_references >= _SEVERAL,
        "data.register=none": data.register == "none",
    }
    missing = [option for option, is_set in wanted.items() if not is_set]
    return f": for surfaces without position set {', '.join(missing)}" if missing else ""


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
