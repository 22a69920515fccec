"""Whether parts lie as in their references is found out, and what of the config speaks for it is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from sage_jax.config import DataConfig
from sage_jax.data.images import encode_png
from sage_jax.data.lie_of_parts import LOOKED_AT, lie_of_parts
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from tests.support.moved_scenes import scene, seen

REGISTERED = DataConfig(source="folder", root="parts", register="rigid")
AS_THEY_LIE = dataclasses.replace(REGISTERED, register="none")


def image(index: int, test: np.ndarray, reference: np.ndarray | None) -> AnnotatedImage:
    return AnnotatedImage(
        image_id=f"good/{index}",
        category="part",
        test_image=encode_png(test),
        reference_image=None if reference is None else encode_png(reference),
        defects=(),
        mask=None,
        test_path=f"good/{index}.png",
        reference_path="" if reference is None else "good/0.png",
    )


def parts(number: int, *, turn: float = 0.0, shift: float = 0.0) -> list[AnnotatedImage]:
    """One part, photographed anew for each image: turned by `turn` degrees and shifted by `shift` px, or as it lay."""
    rng, picture = np.random.default_rng(3), scene(3)
    reference = seen(picture, 0.0, 0.0, 0.0)
    return [
        image(
            index,
            np.clip(seen(picture, turn, shift, 0.0) + rng.normal(0, 3, reference.shape), 0, 255).astype(np.uint8),
            reference,
        )
        for index in range(number)
    ]


def surfaces(number: int) -> list[AnnotatedImage]:
    """Crops of noise, of which none matches another."""
    rng = np.random.default_rng(4)
    made = [ndimage.gaussian_filter(rng.normal(128, 200, (96, 96)), 1.5).clip(0, 255) for _ in range(number + 1)]
    crops = [np.repeat(each.astype(np.uint8)[..., None], 3, axis=2) for each in made]
    return [image(index, crop, crops[-1]) for index, crop in enumerate(crops[:-1])]


def test_parts_that_lie_elsewhere_are_told_with_the_option_that_moves_their_references() -> None:
    moved = parts(4, turn=6.0, shift=12.0)
    told = lie_of_parts(moved, AS_THEY_LIE, similarity="aligned")
    assert told.startswith("4 of 4 good images lie otherwise than their references, turned by 6.")
    assert "shifted by 9." in told and told.endswith("data.register=rigid would move the references")
    assert lie_of_parts(moved, REGISTERED, similarity="aligned").endswith("; data.register=rigid moves the references")


def test_a_few_images_that_lie_elsewhere_speak_for_nothing() -> None:
    told = lie_of_parts([*parts(3), *parts(1, turn=6.0)], AS_THEY_LIE, similarity="aligned")
    assert told.startswith("1 of 4 good images lie otherwise") and "data.register" not in told


def test_parts_that_lie_as_in_their_references_are_told() -> None:
    told = lie_of_parts(parts(3), REGISTERED, similarity="aligned")
    assert told.startswith("3 of 3 good images lie as their references do (correlation 1.0") and "nowhere" not in told


@pytest.mark.parametrize(
    ("data", "similarity", "cure"),
    [
        (
            REGISTERED,
            "aligned",
            ": for surfaces without position set model.fusion.similarity=max, data.num_references=4 or more, "
            "data.register=none",
        ),
        (AS_THEY_LIE, "max", ": for surfaces without position set data.num_references=4 or more"),
        (dataclasses.replace(AS_THEY_LIE, num_references=4), "max", ""),
    ],
)
def test_surfaces_that_match_nowhere_are_told_with_what_reads_them(
    data: DataConfig, similarity: str, cure: str
) -> None:
    told = lie_of_parts(surfaces(3), data, similarity=similarity)
    assert told == f"3 of 3 good images match their references nowhere{cure}"


def test_surfaces_among_parts_are_counted_for_themselves() -> None:
    told = lie_of_parts([*parts(3), *surfaces(2)], AS_THEY_LIE, similarity="aligned")
    assert told.startswith("3 of 5 good images lie as their references do") and told.endswith("; 2 match nowhere")
    mostly = lie_of_parts([*parts(1), *surfaces(3)], AS_THEY_LIE, similarity="max")
    assert mostly.startswith("3 of 4 good images match their references nowhere")


def test_what_has_no_other_image_as_reference_and_what_is_not_good_is_left_out() -> None:
    (good,) = parts(1)
    defective = dataclasses.replace(good, defects=(Defect("scratch", Box(1, 1, 5, 5)),))
    own = dataclasses.replace(good, reference_image=good.test_image)
    broken = dataclasses.replace(good, test_image=b"no image")
    none = dataclasses.replace(good, reference_image=None, reference_path="")
    fault = Fault("good/1.png", None, "is broken", "mend it")
    assert lie_of_parts([defective, own, broken, none, fault], REGISTERED, similarity="aligned") == ""


def test_no_more_than_the_first_images_are_looked_at() -> None:
    read = []

    def each() -> Iterator[AnnotatedImage]:
        for one in parts(1) * 100:
            read.append(one)
            yield one

    assert lie_of_parts(each(), REGISTERED, similarity="aligned").startswith(f"{LOOKED_AT} of {LOOKED_AT} good images")
    assert len(read) == LOOKED_AT
