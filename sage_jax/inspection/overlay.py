"""Pictures of an inspection: the image for the page, and the anomaly map laid over it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sage_jax.axes import Float, UInt8

Region = tuple[int, int, int, int, float]
_MIN_PX = 256
_MAX_PX = 1024
_SMALL_PX = 512
_LEGEND_PX = 22
_PNG_LEVEL: Final = 3
"""The strongest takes seven times as long for a tenth less of file."""


def picture(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An image as a PNG for the report: the shorter side at least 256 px (nearest), the longer at most 1024 px."""
    return _png(_resized(Image.fromarray(image)))


def small_picture(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An image as a JPEG for a page of hundreds: the longer side at most 512 px."""
    small = Image.fromarray(image)
    small.thumbnail((_SMALL_PX, _SMALL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def overlay(
    image: UInt8[np.ndarray, "H W 3"], anomaly_map: Float[np.ndarray, "H W"], boxes: Sequence[Region] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its anomaly map laid over it, its boxes framed, and a legend of the colour scale below.

    The stronger the map, the less of the image shows; the image itself is greyed so that colour means anomaly only.
    The colour scale (inferno) rises evenly in lightness, so that it also reads in grey.

    Args:
      image: RGB, 0 to 255.
      anomaly_map: 0 (normal) to 1; what lies outside is cut.
      boxes: (left, top, right, bottom, score), px of the image.

    Returns:
      RGB at the size of `picture(image)`, and 22 px higher by the legend.

    Raises:
      ValueError: The map is not of the image's size, or not finite.
    """
    if anomaly_map.shape != image.shape[:2]:
        raise ValueError(f"overlay: map {anomaly_map.shape} on an image {image.shape[:2]}: resize the map to the image")
    if not np.isfinite(anomaly_map).all():
        raise ValueError("overlay: the map is not finite")
    base = _resized(Image.fromarray(image))
    strength = Image.fromarray(np.clip(anomaly_map, 0, 1).astype(np.float32), mode="F")
    values = np.asarray(strength.resize(base.size, Image.Resampling.BILINEAR))
    grey = np.asarray(base.convert("L"), np.float64)[..., None].repeat(3, axis=-1)
    opacity = (0.15 + 0.65 * np.clip(values, 0, 1))[..., None]
    blended = grey * (1 - opacity) + _colours(values) * opacity
    canvas = Image.new("RGB", (base.width, base.height + _LEGEND_PX), "white")
    canvas.paste(Image.fromarray(blended.round().astype(np.uint8)))
    draw = ImageDraw.Draw(canvas)
    for left, top, right, bottom, _ in boxes:
        across, down = base.width / image.shape[1], base.height / image.shape[0]
        frame = [left * across, top * down, max(left * across, right * across - 1), max(top * down, bottom * down - 1)]
        # Two rims, so that the frame shows on dark and on bright ground.
        draw.rectangle([frame[0] - 2, frame[1] - 2, frame[2] + 2, frame[3] + 2], outline="black", width=1)
        draw.rectangle([frame[0] - 1, frame[1] - 1, frame[2] + 1, frame[3] + 1], outline="white", width=1)
    _draw_legend(canvas, draw, base.height)
    return np.asarray(canvas)


def _resized(image: Image.Image) -> Image.Image:
    if min(image.size) < _MIN_PX:
        factor = -(-_MIN_PX // min(image.size))
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if max(image.size) > _MAX_PX:
        factor = _MAX_PX / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _colours(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return np.asarray(matplotlib.colormaps["inferno"](values))[..., :3] * 255.0


def _draw_legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
    """The colour scale from 0 to 1 with its end values, on the strip below the picture."""
    font = ImageFont.load_default(size=12)
    margin = 20
    ramp = _colours(np.linspace(0, 1, canvas.width - 2 * margin)[None].repeat(8, axis=0))
    canvas.paste(Image.fromarray(ramp.round().astype(np.uint8)), (margin, top + 7))
    draw.text((margin - 6, top + 11), "0", fill="black", font=font, anchor="rm")
    draw.text((canvas.width - margin + 6, top + 11), "1", fill="black", font=font, anchor="lm")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
