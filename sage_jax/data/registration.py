"""Registration: turns and shifts a reference so that the part lies in it as it does in the test image.

Phase correlation (Kuglin and Hines 1975) at some turns gives the beginning, and Gauss-Newton steps on the difference of
normalised grey values (Lucas and Kanade 1981, with the gain and offset of ECC) the fraction of a pixel.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from sage_jax.axes import Float, UInt8
from sage_jax.data.images import decode_rgb, encode_png

_SIDE_PX: Final = 128
"""Longer side at which images are compared; the motion is scaled back."""
_TURNS: Final = tuple(np.deg2rad(np.arange(-12.0, 12.1, 3.0)))
_CANDIDATES: Final = 3
_STEPS: Final = 20
_MOST_TURN: Final = np.deg2rad(14.0)
_MOST_SHIFT: Final = 0.4
"""Of the image's side."""
_GAIN: Final = 0.03
"""Correlation that a motion must add to be taken: what does not match anywhere stays where it is."""
LEAST_MATCH: Final = 0.3
"""Of two pictures of noise the best motion reaches 0.1."""
_LEAST_OVERLAP: Final = 0.4


@dataclasses.dataclass(frozen=True)
class Motion:
    """How a reference is laid on a test image.

    Attributes:
      turn: About the middle, radians.
      down, across: Shift, as shares of the test image's height and width.
      match: Correlation of grey values where both images are, -1 to 1, after the motion.
      unmoved: The same without it.
    """

    turn: float
    down: float
    across: float
    match: float
    unmoved: float

    @property
    def still(self) -> bool:
        """Whether the reference stays where it is."""
        return self.turn == self.down == self.across == 0.0


def find_motion(test: UInt8[np.ndarray, "H W 3"], reference: UInt8[np.ndarray, "h w 3"]) -> Motion:
    """The turn (within 14 degrees) and shift by which a reference matches a test image best.

    A reference of another size is stretched to the test image's first. Where no motion makes them clearly more alike,
    it is none: of a texture without position there is nothing to find.
    """
    height, width = test.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = max(8, round(width * scale)), max(8, round(height * scale))
    seen, kept = (_grey(image, size) for image in (test, reference))
    still = _correlation(seen, kept, (0.0, 0.0, 0.0))
    starts = [(0.0, 0.0, 0.0)]
    for turn in _TURNS:
        starts += [
            (float(turn), down, across) for down, across in _shifts(seen, _moved(kept, (float(turn), 0.0, 0.0))[0])
        ]
    near = (each for each in starts if max(abs(each[1]) / size[1], abs(each[2]) / size[0]) <= _MOST_SHIFT)
    best = sorted(near, key=lambda motion: -_correlation(seen, kept, motion))[:_CANDIDATES]
    found = max((_refined(seen, kept, motion) for motion in best), key=lambda motion: _correlation(seen, kept, motion))
    match = _correlation(seen, kept, found)
    if match < max(still + _GAIN, LEAST_MATCH):
        return Motion(0.0, 0.0, 0.0, still, still)
    return Motion(found[0], found[1] / size[1], found[2] / size[0], match, still)


def register(
    test: UInt8[np.ndarray, "H W 3"], reference: UInt8[np.ndarray, "h w 3"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Motion]:
    """The reference as the test image's camera would have seen it, and the motion that took it there.

    Where the moved reference shows nothing it is filled with the test image: nothing can be said there.
    """
    motion = find_motion(test, reference)
    height, width = test.shape[:2]
    if reference.shape != test.shape:
        reference = np.asarray(Image.fromarray(reference).resize((width, height), Image.Resampling.BILINEAR))
    if motion.still:
        return reference, motion
    pixels = (motion.turn, motion.down * height, motion.across * width)
    planes = [_moved(reference[..., channel].astype(np.float32), pixels) for channel in range(3)]
    moved = np.stack([plane for plane, _ in planes], axis=-1)
    shown = planes[0][1][..., None]
    return np.where(shown, np.clip(moved + 0.5, 0.0, 255.0), test).astype(np.uint8), motion


def registered(test: bytes, reference: bytes, *, name: str) -> bytes:
    """The encoded reference as `register` lays it on an encoded test image; as it is where it stays where it lies.

    Raises:
      ImageFault: One of them cannot be decoded.
    """
    moved, motion = register(decode_rgb(test, name=name), decode_rgb(reference, name=f"reference of {name}"))
    return reference if motion.still else encode_png(moved)


_Pose = tuple[float, float, float]
"""Turn in radians, shift down and across in px."""


def _grey(image: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    shrunk = Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX)
    return ndimage.gaussian_filter(np.asarray(shrunk, np.float32), 0.7)


def _moved(plane: np.ndarray, pose: _Pose) -> tuple[np.ndarray, np.ndarray]:
    """A plane turned about its middle and then shifted, and where it shows anything."""
    turn, down, across = pose
    height, width = plane.shape
    middle = np.array([(height - 1) / 2.0, (width - 1) / 2.0])
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    offset = middle - back @ (middle + (down, across))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    from_y = back[0, 0] * y + back[0, 1] * x + offset[0]
    from_x = back[1, 0] * y + back[1, 1] * x + offset[1]
    shown = (from_y >= 0) & (from_y <= height - 1) & (from_x >= 0) & (from_x <= width - 1)
    moved = ndimage.map_coordinates(plane, np.stack([from_y, from_x]), order=1, mode="nearest")
    return np.asarray(moved, np.float32), shown


def _shifts(test: np.ndarray, reference: np.ndarray) -> list[tuple[float, float]]:
    """Shifts at the two highest peaks of the phase correlation, px."""
    window = np.hanning(test.shape[0])[:, None] * np.hanning(test.shape[1])[None, :]
    one, other = (np.asarray(fft.rfft2((plane - plane.mean()) * window)) for plane in (test, reference))
    cross = one * np.conj(other)
    peaks = np.asarray(fft.irfft2(cross / (np.abs(cross) + 1e-3 * np.abs(cross).mean() + 1e-9), s=test.shape))
    peaks = ndimage.gaussian_filter(peaks, 1.0, mode="wrap")
    found = []
    for _ in range(2):
        at = np.unravel_index(int(peaks.argmax()), peaks.shape)
        down, across = (int(place) - side * (place > side // 2) for place, side in zip(at, peaks.shape, strict=True))
        found.append((float(down), float(across)))
        rows, columns = (np.arange(place - 2, place + 3) % side for place, side in zip(at, peaks.shape, strict=True))
        peaks[np.ix_(rows, columns)] = -np.inf
    return found


def _correlation(test: np.ndarray, reference: np.ndarray, pose: _Pose) -> float:
    """Pearson correlation where both are; -1 where they overlap by less than `_LEAST_OVERLAP`."""
    moved, shown = _moved(reference, pose)
    if shown.mean() < _LEAST_OVERLAP:
        return -1.0
    one, other = test[shown] - test[shown].mean(), moved[shown] - moved[shown].mean()
    return float(one @ other / (np.sqrt((one @ one) * (other @ other)) + 1e-6))


def _refined(test: np.ndarray, reference: np.ndarray, pose: _Pose) -> _Pose:
    """Gauss-Newton steps on turn, shift, gain and offset; the best pose on the way."""
    height, width = test.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2.0, x - (width - 1) / 2.0
    best, most = pose, _correlation(test, reference, pose)
    for _ in range(_STEPS):
        moved, shown = _moved(reference, pose)
        down, across = np.gradient(moved)
        turn, shift_down, shift_across = pose
        # The moved plane at (y, x) shows the reference turned about (shift): a larger turn moves it along (x, -y).
        swing = down * (x - shift_across) - across * (y - shift_down)
        columns = np.stack([swing, -down, -across, moved, np.ones_like(moved)], axis=-1)[shown]
        step = np.linalg.lstsq(columns, test[shown], rcond=None)[0]
        gain = step[3] if abs(step[3]) > 0.1 else 1.0
        change = step[:3] / gain
        pose = (turn + float(change[0]), shift_down + float(change[1]), shift_across + float(change[2]))
        if abs(pose[0]) > _MOST_TURN or abs(pose[1]) > _MOST_SHIFT * height or abs(pose[2]) > _MOST_SHIFT * width:
            break
        reached = _correlation(test, reference, pose)
        if reached > most:
            best, most = pose, reached
        if np.abs(change[1:]).max() < 0.01 and abs(change[0]) < 1e-4:
            break
    return best
