"""Pictures for browsers: of any file, no larger than asked for, and a map that lies over its image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.store import CorrectionStore
from sage_jax.review.pictures import PictureMaker
from tests.support.corrected import finding
from tests.support.reviewed import HEIGHT, WIDTH, add


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def tiff(px: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (px, px), np.uint16)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(("px", "kind"), [(300, "image/png"), (700, "image/jpeg")])
def test_a_file_that_no_browser_shows_becomes_one_that_it_does(tmp_path: Path, px: int, kind: str) -> None:
    store = CorrectionStore(tmp_path)
    entry = store.inspection(store.add_inspection(finding(image=tiff(px))))
    pictures = PictureMaker(store)
    found = pictures.image(entry.image)
    assert (
        found.media_type == kind and opened(found.content).size == (px, px) and pictures.size(entry.image) == (px, px)
    )
    assert max(opened(pictures.image(entry.image, 100).content).size) == 100
    assert opened(pictures.image(entry.image, 10**9).content).size == (px, px)


def test_a_map_shows_its_peak_and_lets_the_rest_through(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path)
    entry = store.inspection(add(store, 1, score=1.0))
    found = PictureMaker(store).map(entry.image, entry.references, entry.model)
    assert found is not None
    pixels = np.asarray(opened(found.content))
    assert pixels.shape == (HEIGHT, WIDTH, 4)
    assert pixels[30, 75, 3] == round(255 * 0.8) and pixels[5, 5, 3] == round(255 * 0.15)
    assert int(pixels[30, 75, :3].sum()) > int(pixels[5, 5, :3].sum())
    assert PictureMaker(store).map(entry.image, entry.references, "another model") is None


def test_an_unknown_digest_is_a_fault_and_no_path(tmp_path: Path) -> None:
    pictures = PictureMaker(CorrectionStore(tmp_path))
    for digest in ("../../etc/passwd", "0" * 64, ""):
        with pytest.raises(CorrectionFault):
            pictures.image(digest)
