"""Images in every mode come out right, and no bytes, however damaged, do more than raise ImageFault."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sage_jax.data import images
from sage_jax.data.images import SUFFIXES, ImageFault, decode_mask, decode_rgb, encode_png, read_inside

_RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


_FILES = {
    kind: _saved(Image.fromarray(np.kron(_RGB, np.ones((4, 4, 1), np.uint8))), kind)
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
}


def test_png_of_any_array_decodes_to_the_same_pixels() -> None:
    grey, mask = _RGB[:, :, 0], _RGB[:, :, 1] > 200
    np.testing.assert_array_equal(decode_rgb(encode_png(_RGB), name="a"), _RGB)
    np.testing.assert_array_equal(decode_rgb(encode_png(grey), name="a"), np.repeat(grey[:, :, None], 3, 2))
    np.testing.assert_array_equal(decode_mask(encode_png(mask)), mask)
    for bad in (grey.astype(np.float32), _RGB[:, :, :2], _RGB[0, :, 0]):
        with pytest.raises(ValueError, match="expected uint8"):
            encode_png(bad)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_opaque_rgb(mode: str) -> None:
    image = Image.fromarray(_RGB).convert(mode)
    decoded = decode_rgb(_saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"), name="a")
    assert decoded.shape == (13, 17, 3) and decoded.dtype == np.uint8
    expected = np.asarray(image.convert("RGB"), np.int32)
    np.testing.assert_array_equal(decoded, expected)


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[1, 1] = (0, 0, 0, 51)  # a fifth of black over white
    decoded = decode_rgb(_saved(Image.fromarray(pixels)), name="a")
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[0, 1].tolist() == [255, 255, 255]
    assert decoded[1, 1].tolist() == [204, 204, 204]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_scale_to_eight(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    decoded = decode_rgb(_saved(Image.fromarray(values), kind), name="a")
    assert decoded[0, :, 1].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: shown after a quarter turn clockwise
    decoded = decode_rgb(_saved(Image.fromarray(_RGB), "PNG", exif=exif), name="a")
    np.testing.assert_array_equal(decoded, np.rot90(_RGB, -1))


def test_float_pixels_are_refused_with_a_cure() -> None:
    with pytest.raises(ImageFault, match=r"a\.tif: .*floating-point.*8 or 16 bits"):
        decode_rgb(_saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), name="a.tif")


def test_palette_masks_count_by_index_and_jpeg_masks_from_half() -> None:
    classes = np.random.default_rng(1).integers(0, 3, (16, 16), dtype=np.uint8)
    palette = Image.new("P", (16, 16))
    palette.putdata(classes.ravel().tolist())
    palette.putpalette([0, 0, 0] * 3)  # all black: only the index tells
    np.testing.assert_array_equal(decode_mask(_saved(palette)), classes != 0)
    square = np.zeros((32, 32), np.uint8)
    square[9:21, 7:26] = 255  # across the blocks of 8, so that compression leaves noise
    np.testing.assert_array_equal(decode_mask(_saved(Image.fromarray(square), "JPEG", quality=85)), square > 0)
    alpha = np.zeros((4, 4, 4), np.uint8)
    alpha[..., 3] = 255
    assert not decode_mask(_saved(Image.fromarray(alpha))).any()


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_500, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageFault, match=r"bomb\.png: has .*more than 178,956,970 px"):
        decode_rgb(_png_header(side, side), name="bomb.png")


def test_a_bomb_in_a_text_chunk_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 10_000_000, zip=True)
    with pytest.raises(ImageFault, match=r"text\.png: is damaged"):
        decode_rgb(_saved(Image.fromarray(_RGB), pnginfo=info), name="text.png")


def test_the_pixel_limit_is_inclusive() -> None:
    assert decode_rgb(encode_png(_RGB), name="a", max_pixels=13 * 17).shape == (13, 17, 3)
    with pytest.raises(ImageFault, match="17 x 13 px"):
        decode_rgb(encode_png(_RGB), name="a", max_pixels=13 * 17 - 1)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(_FILES)), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_a_fault_or_whole(kind: str, share: float) -> None:
    """What is cut off may be padding or a closing mark; then the pixels must be those of the whole file."""
    data = _FILES[kind]
    try:
        decoded = decode_rgb(data[: int(share * len(data))], name="cut")
    except ImageFault as fault:
        assert str(fault).startswith("cut: ") and fault.cure
    else:
        np.testing.assert_array_equal(decoded, decode_rgb(data, name="whole"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # decoders warn of what they then refuse
@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(_FILES)), seed=st.integers(0, 2**32 - 1), num=st.integers(1, 40))
def test_damaged_bytes_never_crash(kind: str, seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(_FILES[kind], np.uint8).copy()
    data[rng.integers(0, min(len(data), 400), num)] = rng.integers(0, 256, num)
    for decode in (decode_rgb, decode_mask):
        try:
            decoded = decode(data.tobytes(), name="damaged", max_pixels=10**6)
        except ImageFault as fault:
            assert fault.name == "damaged"
        else:
            assert decoded.size > 0


@given(st.binary(max_size=64))
def test_no_bytes_crash(data: bytes) -> None:
    with pytest.raises(ImageFault, match="^noise: "):
        decode_rgb(data, name="noise")


def test_a_path_never_leaves_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.png"
    (root / "in").mkdir(parents=True)
    outside.write_bytes(b"secret")
    (root / "in/a.png").write_bytes(b"fine")
    os.symlink(outside, root / "link.png")
    os.symlink(root / "in/a.png", root / "inner.png")
    os.symlink(root / "loop.png", root / "loop.png")
    os.mkfifo(root / "pipe.png")
    assert (
        read_inside(root, "in/a.png")
        == read_inside(root, "in/../in/a.png")
        == read_inside(root, "inner.png")
        == b"fine"
    )
    for bad in ("../secret.png", str(outside), "in/../../secret.png", "link.png"):
        with pytest.raises(ImageFault, match="outside"):
            read_inside(root, bad)
    for bad in ("", "a\0b", "\ud800.png", "none.png", "in", "pipe.png", "loop.png", "x" * 5000):
        with pytest.raises(ImageFault):
            read_inside(root, bad)


def test_a_root_that_is_a_link_serves_its_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.png").write_bytes(b"fine")
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert read_inside(tmp_path / "link", "a.png") == b"fine"


def test_a_remembered_file_is_decoded_once_and_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(data: bytes, *, name: str) -> np.ndarray:
        decoded.append(name)
        return decode_rgb(data, name=name)

    monkeypatch.setattr(images, "decode_rgb", counting)
    images._remembered.cache_clear()
    data = encode_png(_RGB)
    assert images.remembered_rgb(data, name="not kept", keep=False).sum() == _RGB.sum()
    for name, keep in (("kept", True), ("found", True), ("found", False)):
        pixels = images.remembered_rgb(bytes(bytearray(data)), name=name, keep=keep)  # by content, not by object
        np.testing.assert_array_equal(pixels, _RGB)
        assert not pixels.flags.writeable
    assert decoded == ["not kept", "kept"]
    for name in ("broken", "broken again"):  # a fault is found anew, under the name of the file at hand
        with pytest.raises(ImageFault, match=f"{name}:"):
            images.remembered_rgb(data[:50], name=name)


def test_photographs_of_phones_are_read_where_the_extra_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    pixels = np.full((48, 64, 3), (200, 60, 20), np.uint8)
    path = tmp_path / "part.HEIC"
    heif.from_pillow(Image.fromarray(pixels)).save(path, quality=95)
    seen = decode_rgb(path.read_bytes(), name="part.HEIC")
    assert seen.shape == pixels.shape and np.abs(seen.astype(int) - pixels).max() < 12
    assert ".heic" in SUFFIXES and ".heif" in SUFFIXES
    with pytest.raises(ImageFault, match=r"part\.HEIC: is (truncated|damaged|no image)"):
        decode_rgb(path.read_bytes()[:200], name="part.HEIC")


def test_the_size_of_an_image_is_checked_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_png(np.zeros((30, 40, 3), np.uint8))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    images.check_size(content, name="a", max_pixels=1200)
    with pytest.raises(ImageFault, match="a: has 40 x 30 px, more than 1,199 px in all"):
        images.check_size(content, name="a", max_pixels=1199)
    for bad in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe", content[:20]):
        with pytest.raises(ImageFault):
            images.check_size(bad, name="a", max_pixels=1200)


def test_forgotten_pixels_are_decoded_again() -> None:
    content = encode_png(np.full((30, 40, 3), 7, np.uint8))
    first = images.remembered_rgb(content, name="a")
    assert images.remembered_rgb(content, name="a") is first
    images.forget_rgb(content)
    assert images.remembered_rgb(content, name="a") is not first
