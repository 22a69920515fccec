"""Test images that are training images saved again: as JPEG, in another format or quality, or at another size."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import numpy as np
from PIL import Image

from sage_jax.axes import Float
from sage_jax.data.images import ImageFault, decode_rgb
from sage_jax.data.records import Record

LEAST_PX: Final = 128
"""Shorter side from which images are compared: less of a board can be equal on two photographs."""
MOST_APART: Final = {2: 24.0, 8: 6.0, 32: 2.0}
"""Most grey levels by which the means of cells may differ, by the cells' side in pixels.

Loss of compression is spread: it moves pixels beside edges, means of 8 x 8 px little, larger ones hardly. A defect
moves them where it lies. docs/how-to/add-a-data-set.md has what the numbers were measured on.
"""
_LEAST_SHARED_NOISE: Final = 0.5
_LEAST_NOISE: Final = 0.25  # grey levels squared: below it there is none to compare
_THUMB_PX: Final = 32
_LEAST_ALIKE: Final = 0.8
_MOST_CANDIDATES: Final = 3
_ROWS: Final = 1024


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A test image with training images that look like it; hashes of their files, the most alike first."""

    tested: str
    trained: tuple[str, ...]


class Thumbnails:
    """Small grey pictures of a data set's images, to find those that could be one picture.

    Each distinct image is decoded once and takes 2 KB. Of a test image at most three training images are candidates.
    """

    def __init__(self) -> None:
        self._thumbs: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
        self._paths: dict[str, str] = {}

    def add(self, split: Literal["train", "test"], record: Record) -> None:
        """Takes the test image of a record; one that is smaller than `LEAST_PX` is left out."""
        name = digest(record.test_image)
        if name in self._paths and any(name in thumbs for thumbs in (self._thumbs[split], self._thumbs["train"])):
            return  # an image of both splits is told as one to the byte
        self._paths.setdefault(name, record.test_path)
        try:
            grey = _grey(record.test_image)
        except ImageFault:
            return
        if min(grey.size) >= LEAST_PX:
            small = grey.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX)
            self._thumbs[split][name] = np.asarray(small, np.float16)

    def path(self, name: str) -> str:
        """Where an image was first met."""
        return self._paths[name]

    def candidates(self) -> Iterator[Candidate]:
        """Test images of which a training image has much the same thumbnail and much the same detail in it."""
        trained, tested = (list(self._thumbs[split]) for split in ("train", "test"))
        if not trained or not tested:
            return
        best: dict[str, list[tuple[float, str]]] = collections.defaultdict(list)
        for first in range(0, len(trained), _ROWS):
            names = trained[first : first + _ROWS]
            thumbs = np.stack([self._thumbs["train"][name] for name in names]).astype(np.float32)
            details = _detail(thumbs)
            for start in range(0, len(tested), _ROWS):
                asked = tested[start : start + _ROWS]
                others = np.stack([self._thumbs["test"][name] for name in asked]).astype(np.float32)
                alike = _detail(others) @ details.T
                for row, column in zip(*np.nonzero(alike >= _LEAST_ALIKE), strict=True):
                    if np.abs(others[row] - thumbs[column]).max() <= MOST_APART[8]:
                        best[asked[row]].append((float(alike[row, column]), names[column]))
        for name, found in best.items():
            found.sort(reverse=True)
            yield Candidate(name, tuple(other for _, other in found[:_MOST_CANDIDATES]))


def copied(candidates: Iterable[Candidate], records: Iterable[Record]) -> list[tuple[str, str]]:
    """Those candidates that are one picture: the test image's hash and the training image's, in their order.

    Args:
      candidates: What to compare.
      records: The data set once more, for the pixels; it is read until all are found. Their files are held meanwhile.
    """
    wanted = list(candidates)
    missing = {name for each in wanted for name in (each.tested, *each.trained)}
    files: dict[str, bytes] = {}
    for record in records if missing else ():
        name = digest(record.test_image)
        if name in missing:
            files[name] = record.test_image
            missing.remove(name)
            if not missing:
                break
    found = []
    for each in wanted:
        pairs = ((each.tested, other) for other in each.trained if {each.tested, other} <= files.keys())
        first = next((pair for pair in pairs if same_picture(files[pair[0]], files[pair[1]])), None)
        found += [first] if first else []
    return found


def digest(image: bytes) -> str:
    """The hash by which an image file is known."""
    return hashlib.sha256(image).hexdigest()[:32]


def same_picture(first: bytes, second: bytes) -> bool:
    """Whether two image files show one picture, one of them saved again with loss or at another size.

    Compared in grey, at the smaller of their sizes: the means of cells differ by no more than loss explains
    (`MOST_APART`), and where the picture is flattest both have the same noise. Two shots of one scene have not.

    Raises:
      ImageFault: One cannot be decoded.
    """
    images = (_grey(first), _grey(second))
    width, height = (min(image.size[axis] for image in images) for axis in (0, 1))
    shapes = [image.width / image.height for image in images]
    if min(width, height) < LEAST_PX or abs(shapes[0] / shapes[1] - 1) > 2 / min(width, height):
        return False
    one, two = (
        np.asarray(
            image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS),
            np.float32,
        )
        for image in images
    )
    if any(np.abs(_cells(one - two, side)).max() > most for side, most in MOST_APART.items()):
        return False
    return _shares_noise(one, two)


def _shares_noise(one: Float[np.ndarray, "H W"], two: Float[np.ndarray, "H W"]) -> bool:
    """Whether the finest detail of the flatter half of the cells is the same, or one image has none there.

    Loss takes noise away and adds none, so that what is left lies along what there was.
    """
    windows = [_windows(image, 4) for image in (one, two)]
    first, second = (each - each.mean(axis=(1, 3), keepdims=True) for each in windows)
    energies = np.stack([np.square(each).mean(axis=(1, 3)) for each in (first, second)])
    flat = energies.sum(0) <= np.median(energies.sum(0))
    shared = (first * second).mean(axis=(1, 3))[flat].mean()
    least = energies[:, flat].mean(1).min()
    return bool(least < _LEAST_NOISE or shared >= _LEAST_SHARED_NOISE * least)


def _windows(image: Float[np.ndarray, "H W"], side: int) -> Float[np.ndarray, "h _ w _"]:
    height, width = (length // side for length in image.shape)
    return image[: height * side, : width * side].reshape(height, side, width, side)


def _cells(image: Float[np.ndarray, "H W"], side: int) -> Float[np.ndarray, "h w"]:
    """Means of the whole cells of an image."""
    return _windows(image, side).mean(axis=(1, 3))


def _grey(image: bytes) -> Image.Image:
    return Image.fromarray(decode_rgb(image, name="image")).convert("L")


def _detail(thumbs: Float[np.ndarray, "I h w"]) -> Float[np.ndarray, "I _"]:
    """Thumbnails without what changes slowly, each of length 1; one without any detail is all 0."""
    coarse = thumbs.reshape(len(thumbs), _THUMB_PX // 4, 4, _THUMB_PX // 4, 4)
    fine = (coarse - coarse.mean(axis=(2, 4), keepdims=True)).reshape(len(thumbs), -1)
    lengths = np.linalg.norm(fine, axis=1, keepdims=True)
    return np.divide(fine, lengths, out=np.zeros_like(fine), where=lengths > 0)
