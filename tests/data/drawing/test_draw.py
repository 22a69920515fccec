"""Drawn defects have exact masks, come in equal numbers with good copies, and stay on the part."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np
import pytest

from sage_jax.config import ConfigError, DataConfig
from sage_jax.data.drawing import draw
from sage_jax.data.images import decode_mask, decode_rgb
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.data.sources import generated


def good_images(number: int, *, referenced: bool = True) -> Iterator[AnnotatedImage]:
    for image in generated.draw(DataConfig(num_train=4 * number, image_px=64, defect_rate=0.0), "train", 7):
        reference = image.reference_image if referenced else None
        yield AnnotatedImage(
            image.image_id, image.test_image, reference, image.category, (), image.mask, image.test_path, ""
        )
        number -= 1
        if not number:
            return


def images_of(number: int, drawn: int, variation: float = 0.0, **changes: bool) -> list[AnnotatedImage]:
    found = draw.with_drawn_defects(good_images(number, **changes), number=drawn, variation=variation, seed=1)
    return [image for image in found if isinstance(image, AnnotatedImage)]


def test_there_are_as_many_defective_as_good_and_each_is_itself() -> None:
    images = images_of(6, 4)
    assert len(images) == 48 and sum(bool(image.defects) for image in images) == 24
    assert len({image.image_id for image in images}) == 48
    assert len({draw.source_id(image.image_id) for image in images}) == 6
    assert images == images_of(6, 4)
    kinds = collections.Counter(defect.type for image in images_of(30, 4) for defect in image.defects)
    assert set(kinds) == set(draw.kinds()) and min(kinds.values()) > 3


def test_the_mask_is_what_was_changed() -> None:
    originals = {image.image_id: image for image in good_images(6)}
    for image in images_of(6, 4):
        if not image.defects:
            assert image.mask is not None and not decode_mask(image.mask).any()
            continue
        before = decode_rgb(originals[draw.source_id(image.image_id)].test_image, name="").astype(int)
        apart = np.abs(decode_rgb(image.test_image, name="").astype(int) - before).max(axis=-1)
        mask = decode_mask(image.mask or b"")
        assert apart[~mask].max() <= 11 and (apart[mask] >= 9).mean() > 0.98
        assert 6 <= mask.sum() <= 0.25 * mask.size
        for defect in image.defects:
            box = defect.box
            assert mask[box.top : box.bottom, box.left : box.right].any()


def test_copies_are_compared_with_the_reference_of_their_image_or_with_the_image() -> None:
    for image in images_of(2, 3):
        assert image.reference_image is not None
    for image in images_of(2, 3, referenced=False):
        assert (image.reference_image is None) == ("#" not in image.image_id)
        if image.reference_image is not None:
            assert image.reference_path == draw.source_id(image.test_path)


def test_defective_and_faulty_images_pass_alone() -> None:
    (good,) = good_images(1)
    bad = AnnotatedImage("bad", good.test_image, None, "cap", (Defect("dent", Box(0, 0, 9, 9)),), None, "bad.png", "")
    fault = Fault("x", None, "is broken", "mend it")
    assert list(draw.with_drawn_defects([bad, fault], number=3, variation=0.0, seed=0)) == [bad, fault]


def test_defects_stay_on_a_part_that_can_be_told_from_its_ground() -> None:
    picture = np.full((96, 96, 3), 0.9, np.float32)
    picture[20:70, 30:80] = (0.2, 0.3, 0.5)
    inside, ground = draw.foreground(picture)
    assert ground is not None and abs(int(inside.sum()) - 2500) < 250 and np.allclose(ground, 0.9)
    for seed in range(30):
        _, masks = draw.draw_defects(picture, picture, np.random.default_rng(seed))
        for kind, mask in masks.items():
            near = np.zeros_like(inside)
            near[16:74, 26:84] = True
            assert mask.any() and (kind in ("contamination", "stain") or not (mask & ~near).any()), kind
    texture = np.random.default_rng(0).random((96, 96, 3)).astype(np.float32)
    assert draw.foreground(texture)[0].all() and draw.foreground(texture)[1] is None


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_something_shows_on_any_picture(level: float) -> None:
    picture = np.full((24, 40, 3), level, np.float32)
    for seed in range(10):
        changed, masks = draw.draw_defects(picture, picture, np.random.default_rng(seed))
        assert masks and np.abs(changed - picture).max() > 0.1


def test_a_source_without_photographs_cannot_be_drawn_into() -> None:
    with pytest.raises(ConfigError, match="drawn_defects = 2: generator gives no photographs"):
        DataConfig(drawn_defects=2)
