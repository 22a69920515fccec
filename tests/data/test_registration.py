"""A turned and shifted reference is laid back to a pixel; one that matches nowhere stays where it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.registration import find_motion, register, registered
from sage_jax.data.sources import generated, readers
from tests.support.moved_scenes import scene, seen


@pytest.mark.parametrize("seed", range(8))
def test_a_motion_is_found_to_a_pixel(seed: int) -> None:
    rng, picture = np.random.default_rng(seed), scene(seed)
    turn, (down, across) = rng.uniform(-10.0, 10.0), rng.uniform(-24.0, 24.0, 2)
    noise = rng.normal(0.0, 4.0, (128, 128, 3))
    test = np.clip(seen(picture, turn, down, across) * 0.9 + 12.0 + noise, 0.0, 255.0).astype(np.uint8)
    reference = seen(picture, 0.0, 0.0, 0.0)
    found, motion = register(test, reference)
    assert abs(np.rad2deg(motion.turn) - turn) < 0.7
    assert abs(motion.down * 128 - down) < 1.0 and abs(motion.across * 128 - across) < 1.0
    assert motion.match > 0.9 > motion.unmoved
    apart = np.abs(found.astype(float) - (test - 12.0) / 0.9)[30:-30, 30:-30]
    assert np.median(apart) < 8.0 and apart.mean() < 0.5 * np.abs(reference.astype(float) - test)[30:-30, 30:-30].mean()


def test_where_the_moved_reference_shows_nothing_the_test_image_stands() -> None:
    picture = scene(2)
    test, reference = seen(picture, 0.0, 20.0, 0.0), seen(picture, 0.0, 0.0, 0.0)
    test[:15] = (250, 10, 120)  # what the reference has no view of
    found, motion = register(test, reference)
    assert abs(motion.down * 128 - 20.0) < 1.0
    np.testing.assert_array_equal(found[:15], test[:15])
    assert np.abs(found[40:100].astype(float) - test[40:100]).mean() < 6.0


def test_a_reference_of_another_size_is_moved_by_the_same_share() -> None:
    picture = scene(3)
    test, reference = seen(picture, 0.0, 12.0, -8.0), seen(picture, 0.0, 0.0, 0.0)
    large = np.repeat(np.repeat(reference, 2, axis=0), 2, axis=1)
    motion = find_motion(test, large)
    assert abs(motion.down * 128 - 12.0) < 1.0 and abs(motion.across * 128 + 8.0) < 1.0
    assert register(test, large)[0].shape == test.shape


def test_what_matches_nowhere_or_already_stays() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(2)]
    assert find_motion(*noise).still
    picture = seen(scene(1), 0.0, 0.0, 0.0)
    assert find_motion(picture, picture).still
    np.testing.assert_array_equal(register(picture, picture)[0], picture)
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert find_motion(flat, flat).still
    content = encode_png(picture)
    assert registered(content, content, name="a.png") is content


def test_records_are_read_with_their_references_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = generated.draw(DataConfig(num_train=1, image_px=64), "train", 0)
    picture = scene(5)
    moved = dataclasses.replace(
        image,
        test_image=encode_png(seen(picture, 5.0, 9.0, -7.0)),
        reference_image=encode_png(seen(picture, 0.0, 0.0, 0.0)),
        defects=(),
        mask=encode_png(np.zeros((128, 128), bool)),
    )
    monkeypatch.setattr(generated, "draw", lambda *_: iter([moved]))

    def reference_of(data: DataConfig) -> np.ndarray:
        (record,) = readers.read_records(data, "train", 0)
        assert not isinstance(record, readers.Fault)
        return decode_rgb(record.reference_image or b"", name="").astype(float)

    test = decode_rgb(moved.test_image, name="").astype(float)
    plain, laid = (reference_of(DataConfig(num_train=1, register=how)) for how in ("none", "rigid"))
    assert np.abs(laid - test)[20:-20, 20:-20].mean() < 0.3 * np.abs(plain - test)[20:-20, 20:-20].mean()
    assert isinstance(moved, AnnotatedImage)
