"""Images as Python gives them: a file's content, whatever they came as, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.errors import UserError
from sage_jax.inspection.given import content_of, name_of, read_references

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def test_every_kind_of_image_is_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(encode_png(PIXELS))
    for given in (path, str(path), path.read_bytes(), Image.fromarray(PIXELS), PIXELS):
        assert (decode_rgb(content_of(given, "part"), name="part") == PIXELS).all()
    grey = decode_rgb(content_of(PIXELS[..., 0], "grey"), name="grey")
    assert (grey == PIXELS[..., :1]).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (PIXELS.astype(np.float32), r"float32 \(9, 7, 3\): give uint8"),
        (PIXELS[None], r"uint8 \(1, 9, 7, 3\)"),
        (3, "a int: give a path"),
        (b"no image", "part"),
        ("not_there.png", "cannot be read: No such file"),
        ("nul\0byte.png", "cannot be read"),
    ],
)
def test_what_is_no_image_is_told(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        content_of(given, "part")


def test_references_are_none_one_or_several(tmp_path: Path) -> None:
    path = tmp_path / "good.png"
    path.write_bytes(encode_png(PIXELS))
    assert read_references(None) == []
    assert [each.path for each in read_references(path)] == [str(path)]
    assert [each.path for each in read_references([PIXELS, path])] == ["reference", str(path)]
    assert (name_of(path, "image"), name_of(PIXELS, "image")) == (str(path), "image")
