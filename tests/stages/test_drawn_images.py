"""Good images with defects drawn into them: what changes, what stays, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.config import DataConfig, InspectConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import decode_rgb
from sage_jax.data.sources.generated import draw
from sage_jax.inspection.images import UserImages
from sage_jax.stages.drawn_images import DrawnImages


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> UserImages:
    """Three good images compared with themselves, and one that is none."""
    folder = tmp_path_factory.mktemp("good")
    drawn = [each for each in draw(DataConfig(num_train=20, num_test=1, image_px=48), "train", 3) if not each.defects]
    for index in range(3):
        (folder / f"{index}.png").write_bytes(drawn[index].test_image)
    (folder / "3.png").write_bytes(b"no image")
    config = InspectConfig(images=str(folder), references=str(folder))
    return UserImages(config, load_vocabulary())


def test_each_image_has_a_defect_that_its_reference_has_not(good: UserImages) -> None:
    drawn = DrawnImages(good, seed=1)
    assert len(drawn) == 4
    for index in range(3):
        image, plain = drawn.read(index), good.read(index)
        assert image.record is not None and plain.record is not None
        assert image.path.startswith(plain.path) and image.path != plain.path == plain.record.test_path
        assert image.record.reference_image == plain.record.reference_image
        changed, before = (decode_rgb(each.record.test_image, name="x") for each in (image, plain) if each.record)
        apart = np.abs(changed.astype(int) - before).max(axis=-1)
        assert 0.0 < (apart > 10).mean() < 0.3


def test_draws_hang_on_the_seed_and_the_number_and_rows_of_them_on_all(good: UserImages) -> None:
    one, same, other = DrawnImages(good, 1), DrawnImages(good, 1), DrawnImages(good, 2)
    pixels = [[each.read(index).record for index in range(3)] for each in (one, same, other)]
    assert pixels[0] == pixels[1]
    assert all(
        a is not None and b is not None and a.test_image != b.test_image
        for a, b in zip(pixels[0], pixels[2], strict=True)
    )
    assert one.key(0) == other.key(0) != good.key(0) and len(one.key(0)) == 16 and one.key(0) != one.key(1)
    assert one.stamp(0) == same.stamp(0) != other.stamp(0) and one.stamp(0).startswith(good.stamp(0))


def test_an_image_that_cannot_be_read_stays_one(good: UserImages) -> None:
    drawn = DrawnImages(good, 1)
    assert drawn.read(3).record is None and "3.png" in drawn.read(3).error
    assert drawn.read(2).record is not None, "its neighbour, which patches come from, cannot be read"
