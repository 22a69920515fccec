"""Copies saved with loss or at another size are found; one product photographed twice, and a defect, are no copies."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sage_jax.data.copies import LEAST_PX, Candidate, Thumbnails, copied, digest, same_picture
from sage_jax.data.records import Record
from tests.support.stream_records import make_record


def part(seed: int, side: int = 256) -> np.ndarray:
    """A part in grey levels [side, side, 3]: shading, edges and texture, without a camera's noise."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 120.0) + np.linspace(-30, 30, side)[:, None, None]
    for _ in range(8):
        top, left, height, width = rng.integers(0, side - 60, 2).tolist() + rng.integers(20, 100, 2).tolist()
        image[top : top + height, left : left + width] = rng.uniform(30, 220, 3)
    return image + ndimage.gaussian_filter(rng.normal(0, 1, (side, side, 1)), (2, 2, 0)) * 12


def shot(image: np.ndarray, seed: int, noise: float = 2.0) -> Image.Image:
    """A photograph of it: what a camera adds is other noise each time."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def resized(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


PHOTO = shot(part(0), 0)
COPIES = {
    "quality 95": saved(PHOTO, "JPEG", quality=95),
    "quality 75": saved(PHOTO, "JPEG", quality=75),
    "bmp": saved(PHOTO, "BMP"),
    "grey": saved(PHOTO.convert("L")),
    "smaller": saved(resized(PHOTO, 0.9), "JPEG", quality=90),
    "half": saved(resized(PHOTO, 0.5), "JPEG", quality=90),
    "larger": saved(resized(PHOTO, 1.1), "JPEG", quality=90),
}


def scratched(image: np.ndarray) -> np.ndarray:
    """A scratch of 2 x 6 px."""
    changed = image.copy()
    changed[100:102, 60:66] -= np.where(changed[100:102, 60:66] > 128, 110, -110)
    return changed


def stained(image: np.ndarray) -> np.ndarray:
    """A faint stain, less than what loss does to an edge."""
    changed = image.copy()
    changed[96:160, 96:160] += 4.0
    return changed


OTHERS = {
    "another shot": saved(shot(part(0), 1)),
    "another shot as JPEG": saved(shot(part(0), 1), "JPEG", quality=90),
    "another part": saved(shot(part(1), 0)),
    "moved": saved(shot(np.roll(part(0), 1, axis=1), 0)),
    "with a scratch": saved(shot(scratched(part(0)), 0)),
    "with a faint stain": saved(shot(stained(part(0)), 0)),
    "cut": saved(PHOTO.crop((0, 0, 256, 230))),
}


def record(image: bytes, path: str) -> Record:
    return dataclasses.replace(make_record(0, np.random.default_rng(0)), test_image=image, test_path=path)


@pytest.mark.parametrize("name", COPIES)
def test_a_picture_saved_again_is_the_same(name: str) -> None:
    assert same_picture(saved(PHOTO), COPIES[name]) and same_picture(COPIES[name], saved(PHOTO))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_only_alike_is_not(name: str) -> None:
    assert not same_picture(saved(PHOTO), OTHERS[name])
    assert name.startswith("cut") or not same_picture(COPIES["quality 75"], OTHERS[name])


def test_a_board_without_noise_is_known_by_its_edges() -> None:
    board = np.where(part(3)[:, :, 0] > 120, 255, 0).astype(np.uint8)
    broken = board.copy()
    broken[130:132, 40:44] = 255 - broken[130:132, 40:44]
    again = saved(Image.fromarray(board), "JPEG", quality=75)
    assert same_picture(saved(Image.fromarray(board)), again)
    assert not same_picture(saved(Image.fromarray(broken)), again)


def test_small_images_are_not_compared() -> None:
    small = shot(part(0, side=LEAST_PX - 1), 0)
    assert not same_picture(saved(small), saved(small, "JPEG", quality=95))
    thumbnails = Thumbnails()
    thumbnails.add("train", record(saved(small), "a.png"))
    thumbnails.add("test", record(saved(small, "JPEG", quality=95), "b.png"))
    assert list(thumbnails.candidates()) == []


def test_copies_are_found_among_many_and_told_by_their_files() -> None:
    train = [record(saved(shot(part(number), number)), f"train/{number}.png") for number in range(6)]
    broken = record(b"no image", "broken.png")
    test = [
        record(saved(shot(part(4), 4), "JPEG", quality=80), "test/a.jpg"),
        record(saved(shot(part(9), 9)), "test/b.png"),
        dataclasses.replace(train[2], test_path="test/c.png"),
        broken,
    ]
    thumbnails = Thumbnails()
    for each in train:
        thumbnails.add("train", each)
    for each in (*test, *test):
        thumbnails.add("test", each)
    (candidate,) = thumbnails.candidates()
    tested, trained = digest(test[0].test_image), digest(train[4].test_image)
    assert candidate == Candidate(tested, (trained,)), "an image of both splits is told as one to the byte"
    assert copied([candidate], iter([*train, *test])) == [(tested, trained)]
    assert (thumbnails.path(tested), thumbnails.path(trained)) == ("test/a.jpg", "train/4.png")
    assert copied([candidate], train) == [] and copied([], iter(train)) == []


def test_of_many_that_look_alike_the_most_alike_are_compared() -> None:
    thumbnails, shots = Thumbnails(), [saved(shot(part(0), seed, noise=4.0)) for seed in range(1, 6)]
    for number, image in enumerate(shots):
        thumbnails.add("train", record(image, f"{number}.png"))
    copy = saved(shot(part(0), 3, noise=4.0), "JPEG", quality=90)
    thumbnails.add("test", record(copy, "copy.jpg"))
    (candidate,) = thumbnails.candidates()
    assert len(candidate.trained) == 3 and candidate.trained[0] == digest(shots[2])
    assert len(copied([candidate], (record(image, "") for image in (*shots, copy)))) == 1
