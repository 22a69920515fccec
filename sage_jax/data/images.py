"""Image files in and out: bytes to RGB arrays and masks, with every way a file can be bad named in one error."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import numpy as np
from PIL import Image, ImageOps

from sage_jax.axes import Bool, Int, UInt8
from sage_jax.errors import UserError
from sage_jax.process.recently_used import RecentlyUsed
from sage_jax.process.shortages import raise_if_lacking

_HEIF: Final = importlib.util.find_spec("pillow_heif") is not None
"""Whether the extra `heic` is installed, which reads what phones write."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", *((".heic", ".heif") if _HEIF else ()))
# Only these decoders are tried: others start external programs (EPS) or render (WMF), which a data set never needs.
_FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", *(("HEIF",) if _HEIF else ()))
WIDE_MODES: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey values of more than 8 bits."""
_MAX_PIXELS: Final = 178_956_970
_REMEMBERED_BYTES: Final = 2**28
"""Of pixels that `remembered_rgb` keeps."""

T = TypeVar("T")


class ImageFault(UserError):
    """A file that cannot be used, with the way out.

    Attributes:
      name: The file, as the data set names it.
      problem: What is wrong with it.
      cure: What to do about it.
    """

    def __init__(self, name: str, problem: str, cure: str) -> None:
        super().__init__(f"{name}: {problem} ({cure})")
        self.name = name
        self.problem = problem
        self.cure = cure


def decode_rgb(data: bytes, *, name: str, max_pixels: int = _MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels of an encoded image, RGB 0..255, upright.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones laid on white, EXIF orientation applied.
    Of an animated file the first frame counts.

    Args:
      data: The encoded file (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM).
      name: The file's name, for the message.
      max_pixels: Most pixels; checked in the header, before memory is taken.

    Raises:
      ImageFault: The file is truncated, damaged, not an image, or larger than `max_pixels`.
    """
    return _decode(data, name, max_pixels, lambda image: rgb_of(image, name=name))


def rgb_of(image: Image.Image, *, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels of an opened image, converted as those of a file by `decode_rgb`.

    Raises:
      ImageFault: Its pixels are floating-point numbers.
    """
    if image.mode in WIDE_MODES:
        return np.repeat(_eight_bit(upright_values(image, name=name))[:, :, None], 3, axis=2)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ImageFault(name, "has floating-point pixels, whose range is unknown", "save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def remembered_rgb(data: bytes, *, name: str, keep: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels as `decode_rgb` gives them, read-only, of a file that several parts of a program use one after the other.

    The last 256 MB of pixels are remembered by the files' content.

    Args:
      keep: Whether they are remembered from now on; those that were before are found either way.

    Raises:
      ImageFault: As `decode_rgb`.
    """

    def decode() -> UInt8[np.ndarray, "H W 3"]:
        pixels = decode_rgb(data, name=name)
        pixels.flags.writeable = False
        return pixels

    if keep:
        return _remembered().get(data, decode)
    found = _remembered().find(data)
    return decode() if found is None else found


def forget_rgb(data: bytes) -> None:
    """Gives up the remembered pixels of a file that will not be asked for again."""
    _remembered().drop(data)


def check_size(data: bytes, *, name: str, max_pixels: int) -> None:
    """Checks that an encoded image has at most so many pixels, from its header alone.

    Raises:
      ImageFault: It has more, or no header of an image that is read here.
    """
    if not data:
        raise ImageFault(name, "is an empty file", "copy it again")
    try:
        with open_image(io.BytesIO(data)) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise _bomb(name, "far too many pixels", max_pixels) from None
    except Exception:  # as in `_decode`: damaged headers make decoders raise almost anything
        raise _unidentified(name) from None
    if width * height > max_pixels:
        raise _bomb(name, f"{width} x {height} px", max_pixels)


@functools.cache
def _remembered() -> RecentlyUsed:
    return RecentlyUsed(_REMEMBERED_BYTES)


def upright_grey(data: bytes, *, name: str) -> Int[np.ndarray, "H W"]:
    """Grey values of a wide image (`WIDE_MODES`) as they stand in its file, upright.

    Raises:
      ImageFault: As `decode_rgb`, or its values are outside 0..65535.
    """
    return _decode(data, name, _MAX_PIXELS, lambda image: upright_values(image, name=name))


def upright_values(image: Image.Image, *, name: str) -> Int[np.ndarray, "H W"]:
    """Grey values of an opened wide image, upright.

    Raises:
      ImageFault: They are outside 0..65535.
    """
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65535:
        raise ImageFault(name, "has pixels outside 0..65535", "save it with 8 or 16 bits")
    return values


def decode_mask(data: bytes, *, name: str = "mask", max_pixels: int = _MAX_PIXELS) -> Bool[np.ndarray, "H W"]:
    """Anomalous pixels of an encoded mask: True where it is not 0.

    Palette images count by index, so that class ids (VisA) keep their meaning whatever their colours; alpha is
    ignored. JPEG masks count from half brightness, since compression leaves noise around 0.

    Raises:
      ImageFault: As `decode_rgb`.
    """

    def convert(image: Image.Image) -> np.ndarray:
        lossy = image.format in ("JPEG", "MPO")
        image = ImageOps.exif_transpose(image)
        values = np.asarray(image)
        if values.ndim == 3:
            alpha = image.mode in ("LA", "RGBA", "PA")
            values = values[:, :, :-1] if alpha else values
            values = values.max(axis=2)
        return values > 127 if lossy else values != 0

    return _decode(data, name, max_pixels, convert)


def encode_png(array: np.ndarray) -> bytes:
    """PNG of an array: uint8 (H, W) or (H, W, 3), or bool (H, W) written as 0 and 255.

    Lightly compressed: data sets are written once and read often, and the strongest level takes ten times as long.
    """
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(
            f"encode_png: expected uint8 (H, W) or (H, W, 3), or bool (H, W); got {array.dtype} {array.shape}"
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrink(pixels: np.ndarray, longer_px: int) -> np.ndarray:
    """An image [H, W, 3] or a mask [H, W] whose longer side is at most so long; 0 = as it is.

    Images are averaged; of a mask a pixel stays marked where any of what it stands for is.
    """
    height, width = pixels.shape[:2]
    if longer_px == 0 or max(height, width) <= longer_px:
        return pixels
    scale = longer_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels).resize(
        size, Image.Resampling.BOX
    )
    return np.asarray(resized).astype(pixels.dtype)


def open_image(file: BinaryIO) -> Image.Image:
    """An image by its header, in one of the formats that are read.

    Raises:
      Exception: Whatever its decoder throws.
    """
    _register_heif()
    return Image.open(file, formats=_FORMATS)


@functools.cache
def _register_heif() -> None:
    """Makes Pillow read HEIF, where the extra is installed; once a process, when the first image is opened."""
    if _HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()


def forward_slashes(path: str) -> str:
    """A path of a list that may have been written on Windows, with `/` between its folders."""
    return path if "/" in path else path.replace("\\", "/")


def resolve_inside(root: Path, relative: str) -> Path:
    """The file `relative` under `root`, never one outside it.

    Raises:
      ImageFault: The path is absolute, leaves the root (by `..` or by a link), or names no file.
    """
    if not relative or "\0" in relative or relative != relative.encode(errors="ignore").decode():
        raise ImageFault(ascii(relative), "is no path", "give a path relative to the data set's root")
    base = root.resolve()
    try:
        path = (base / relative).resolve()
        if Path(relative).is_absolute() or not path.is_relative_to(base):
            raise ImageFault(
                relative,
                f"lies outside {root}",
                "move the file under the root, or set the root to a folder that holds it",
            )
        if not path.is_file():
            problem = "is no regular file" if path.exists() else "does not exist"
            raise ImageFault(relative, f"{problem} under {root}", "correct the path, or complete the data set")
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links, no permission
        raise ImageFault(relative, f"cannot be resolved: {error}", "correct the path or its permissions") from None
    return path


def read_inside(root: Path, relative: str) -> bytes:
    """Contents of the file `relative` under `root`.

    Raises:
      ImageFault: As `resolve_inside`, or the file cannot be read.
    """
    path = resolve_inside(root, relative)
    try:
        return path.read_bytes()
    except OSError as error:
        raise_if_lacking(error, path, permission=False)
        raise ImageFault(
            relative, f"cannot be read: {error.strerror or error}", "check its permissions and the disk"
        ) from None


def _decode(data: bytes, name: str, max_pixels: int, convert: Callable[[Image.Image], T]) -> T:
    """Opens, checks the size, decodes and converts; whatever a decoder throws becomes an ImageFault."""
    if not data:
        raise ImageFault(name, "is an empty file", "copy it again")
    try:
        with open_image(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _bomb(name, f"{width} x {height} px", max_pixels)
            image.load()
            return convert(image)
    except ImageFault:
        raise
    except Image.UnidentifiedImageError:
        raise _unidentified(name) from None
    except Image.DecompressionBombError:
        raise _bomb(name, "far too many pixels", max_pixels) from None
    except MemoryError as error:
        raise_if_lacking(error, name)
        raise
    except Exception as error:  # damaged data makes decoders raise almost anything, down to struct.error and IndexError
        problem = "is truncated" if "truncated" in str(error).lower() else "is damaged"
        raise ImageFault(name, f"{problem}: {error}", "copy it again from its source, or leave it out") from None


def _unidentified(name: str) -> ImageFault:
    return ImageFault(name, "is no image, or only the beginning of one", f"give one of {', '.join(_FORMATS)}")


def _bomb(name: str, size: str, max_pixels: int) -> ImageFault:
    return ImageFault(name, f"has {size}, more than {max_pixels:,} px in all", "shrink it, or leave it out")


def _eight_bit(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Grey values of a 16-bit image, scaled to 0..255 (65535 becomes 255)."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
