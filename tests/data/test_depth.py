"""Frames of fewer bits than their files have are read as bright as they were taken."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import DataConfig, from_config_dict
from sage_jax.config.command_line import ConfigError
from sage_jax.data.depth import Depth, at_depth, find_depth, stated_bits, wide_png
from sage_jax.data.images import ImageFault, decode_rgb, encode_png
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources import readers
from sage_jax.data.sources.folders import read_images
from sage_jax.inspection.given import content_of
from sage_jax.stages.data_sources import with_readers
from tests.support.tiny_config import get_config


def frame(bits: int, seed: int = 0, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A grey frame that uses the whole range of its bits."""
    values = np.random.default_rng(seed).integers(0, 2**bits, size).astype(np.uint16)
    values[0, 0], values[0, 1] = 2**bits - 1, 0
    return values


def tiff(values: np.ndarray, stated: int | None = None) -> bytes:
    buffer = io.BytesIO()
    tags = {} if stated is None else {281: stated}
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def png_with_significant_bits(values: np.ndarray, bits: int) -> bytes:
    content = wide_png(values)
    chunk = b"sBIT" + bytes([bits])
    end = content.index(b"IDAT") - 4
    return content[:end] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[end:]


def expected(values: np.ndarray, bits: int) -> np.ndarray:
    return np.floor(values.astype(np.float64) / (2**bits - 1) * 255 + 0.5)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encode", [wide_png, tiff])
def test_a_frame_is_as_bright_as_its_depth_says(bits: int, encode: Callable[[np.ndarray], bytes]) -> None:
    values = frame(bits, seed=bits)
    content = encode(values)
    seen = decode_rgb(at_depth(content, bits, name="a"), name="a")[:, :, 0]
    assert np.abs(seen - expected(values, bits)).max() <= 0.5
    assert seen.max() == 255 and decode_rgb(content, name="a").max() < 255 // 2  # which is how it was read without


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_file_that_states_its_depth_is_read_by_that(bits: int) -> None:
    values = frame(min(bits, 10))
    for content in (png_with_significant_bits(values, bits), tiff(values, 2**bits - 1)):
        assert stated_bits(content) == bits
        seen = decode_rgb(at_depth(content, 14, name="a"), name="a")[:, :, 0]
        assert np.abs(seen.astype(float) - expected(values, bits)).max() <= 1


def test_what_is_not_wide_stays_byte_for_byte() -> None:
    colour = encode_png(np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8))
    for content in (colour, wide_png(frame(16)), b"", b"no image", b"II*\0 damaged"):
        assert at_depth(content, 16, name="a") is content
    assert at_depth(colour, 10, name="a") is colour and at_depth(b"no image", 10, name="a") == b"no image"
    assert stated_bits(b"II*\0 damaged") == stated_bits(colour) == stated_bits(wide_png(frame(10))) == 0
    assert stated_bits(png_with_significant_bits(frame(10), 11)) == 0  # no depth that cameras have
    with pytest.raises(ImageFault, match=r"a\.png: is (truncated|damaged)"):
        at_depth(wide_png(frame(12))[:200], 12, name="a.png")


def test_values_beyond_the_depth_are_white() -> None:
    values = frame(12)
    seen = decode_rgb(at_depth(wide_png(values), 10, name="a"), name="a")[:, :, 0]
    assert (seen[values >= 1023] == 255).all() and (seen[values < 500] < 130).all()


def test_depth_of_a_set_is_that_of_its_largest_value(tmp_path: Path) -> None:
    (tmp_path / "dark.png").write_bytes(wide_png(frame(9)))
    (tmp_path / "bright.tif").write_bytes(tiff(frame(12)))
    (tmp_path / "stated.png").write_bytes(png_with_significant_bits(frame(14), 14))
    (tmp_path / "colour.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "damaged.png").write_bytes(wide_png(frame(16))[:100])
    names = ["dark.png", "bright.tif", "stated.png", "colour.png", "damaged.png", "missing.png"]
    found = find_depth(tmp_path, names)
    assert found == Depth(12, 2, 4095, "dark.png")
    assert "2 images of 16 bits" in found.sentence("parts") and "12 bits" in found.sentence("parts")
    assert find_depth(tmp_path, ["colour.png"]) == Depth() and Depth().sentence("parts") == ""


def make_parts(folder: Path, bits: int = 12) -> DataConfig:
    for name in ("good", "scratch"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            values = frame(bits if index else bits - 2, seed=index)
            (folder / name / f"{index}.png").write_bytes(wide_png(values))
    return DataConfig(source="folder", root=str(folder), num_train=0, num_test=0)


def test_a_folder_of_frames_is_read_by_its_own_depth_and_told(tmp_path: Path) -> None:
    data, told = readers.with_bits(make_parts(tmp_path / "parts"))
    assert data.bits == 12 and "read as of 12 bits (data.bits=16 reads them as they are)" in told
    images = [each for split in ("train", "test") for each in read_images(data, split, 0)]
    assert len(images) == 8 and not any(isinstance(each, Fault) for each in images)
    largest = [decode_rgb(each.test_image, name="a").max() for each in images if isinstance(each, AnnotatedImage)]
    assert sorted(largest)[-1] == 255 and sorted(largest)[0] == pytest.approx(255 / 4, abs=1)  # one frame is dim indeed
    assert readers.source_revision(data, 0) != readers.source_revision(make_other(data, bits=16), 0)
    assert readers.source_revision(make_other(data, bits=0), 0) == readers.source_revision(make_other(data, bits=16), 0)


def make_other(data: DataConfig, bits: int) -> DataConfig:
    return DataConfig(source="folder", root=data.root, num_train=0, num_test=0, bits=bits)


def test_the_run_keeps_the_depth_that_it_found(tmp_path: Path) -> None:
    config = from_config_dict(get_config())
    config = dataclasses.replace(config, data=make_parts(tmp_path / "parts", bits=14))
    resolved, told = with_readers(config)
    assert resolved.data.bits == 14 and any("14 bits" in sentence for sentence in told)
    fixed = dataclasses.replace(config, data=dataclasses.replace(config.data, bits=16))
    assert with_readers(fixed)[0].data.bits == 16
    missing = dataclasses.replace(config.data, root=str(tmp_path / "nowhere"))
    assert readers.with_bits(missing) == (missing, "")


def test_only_depths_that_cameras_have_can_be_set() -> None:
    with pytest.raises(ConfigError, match="bits = 11"):
        DataConfig(bits=11)


def test_python_gives_frames_as_arrays_and_pictures(tmp_path: Path) -> None:
    values = frame(12)
    (tmp_path / "a.png").write_bytes(wide_png(values))
    given = (values, Image.fromarray(values), tmp_path / "a.png", wide_png(values))
    seen = [decode_rgb(content_of(each, "a", 12), name="a") for each in given]
    assert all((each == seen[0]).all() for each in seen) and seen[0].max() == 255
