"""The look of a record's image, beside that of its references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sage_jax.data.images import encode_png, shrink
from sage_jax.data.records import Record, Reference
from sage_jax.inspection import looks
from sage_jax.inspection.looks import look_of, patches_of
from sage_jax.metrics.familiarity import learn
from sage_jax.metrics.image_look import Look, look_at, patch_statistics
from tests.support.moved_scenes import scene
from tests.support.tiny_export import record


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def compared(*seeds: int) -> Record:
    """An image with these references."""
    first, *others = (Reference(encode_png(picture(seed)), f"good/{seed}.png") for seed in seeds)
    return dataclasses.replace(
        record(0, num_facts=1),
        test_image=encode_png(picture(0)),
        reference_image=first.image,
        reference_path=first.path,
        further_references=tuple(others),
    )


def test_the_look_has_the_patches_of_image_and_references() -> None:
    found = look_of(compared(101, 102), 0)
    np.testing.assert_array_equal(found.patches, patch_statistics(picture(0)))
    assert len(found.references) == 2
    for seed, patches in zip((101, 102), found.references, strict=True):
        np.testing.assert_array_equal(patches, patch_statistics(picture(seed)))
    alone = dataclasses.replace(compared(101), reference_image=None, reference_path="")
    assert look_of(alone, 0).references == ()


@pytest.mark.parametrize(
    ("given", "known"), [("part", ""), ("hex nut", "hex nut"), ("Hex_Nut", "hex nut"), (" hex  nut", "hex nut")]
)
def test_a_category_is_known_by_its_words(given: str, known: str) -> None:
    assert look_of(dataclasses.replace(compared(101), category=given), 0).category == known


def test_images_are_measured_as_a_data_set_stores_them() -> None:
    large = np.asarray(Image.fromarray(picture(0)).resize((640, 480), Image.Resampling.BICUBIC))
    stored, given = (encode_png(each) for each in (shrink(large, 128), large))
    image = dataclasses.replace(compared(101), test_image=given, reference_image=given)
    same = dataclasses.replace(image, test_image=stored, reference_image=stored)
    one, other = look_of(image, 128), look_of(same, 128)
    assert (one.size, one.sharpness, one.brightness) == (other.size, other.sharpness, other.brightness)
    np.testing.assert_array_equal(one.patches, other.patches)
    np.testing.assert_array_equal(one.references[0], other.references[0])
    assert look_of(image, 0).size > one.size


def test_a_reference_of_many_images_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def count(pixels: np.ndarray) -> np.ndarray:
        seen.append(int(pixels.sum()))
        return patch_statistics(pixels)

    monkeypatch.setattr(looks, "patch_statistics", count)
    for _ in range(3):
        look_of(compared(201, 202), 0)
    assert [seen.count(int(picture(seed).sum())) for seed in (0, 201, 202)] == [3, 1, 1]


def test_of_many_references_the_first_eight_count() -> None:
    assert len(look_of(compared(*range(301, 321)), 0).references) == 8


def test_large_small_and_oblong_images_have_as_many_patches() -> None:
    whole = picture(5)[:40, :40]
    large = np.asarray(Image.fromarray(whole).resize((1000, 500), Image.Resampling.BILINEAR))
    for pixels in (large, whole, picture(6)[:3, :9], picture(7)[:63, :20]):
        assert patches_of(pixels).shape == (64, 12) and np.isfinite(patches_of(pixels)).all()
    doubled = np.asarray(Image.fromarray(large).resize((2000, 1000), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(patches_of(doubled), patches_of(large), atol=0.01)


def shots(number: int, *, light: float = 0.0, noise: float = 2.0) -> list[Look]:
    """What a fixed camera sees of one part: the same picture with noise, in grey levels, under a lamp that drifts."""
    rng = np.random.default_rng(12)
    seen = [scene(7)[:96, :96] + light + rng.normal(0.0, noise, (96, 96, 3)) for _ in range(number)]
    pictures = [np.clip(each, 0.0, 255.0).astype(np.uint8) for each in seen]
    return [look_at(each, patches_of(each)) for each in pictures]


@pytest.mark.parametrize(
    ("change", "far"),
    [({"light": 0.5}, False), ({"noise": 1.8}, False), ({"noise": 2.2}, False), ({"light": 25.0}, True)],
)
def test_a_fixed_camera_that_drifts_a_little_is_like_itself(change: dict[str, float], far: bool) -> None:
    known = learn(shots(40), rate=0.05)
    assert [bool(known.doubt(each)) for each in shots(5, **change)] == [far] * 5
