"""Lays crops of DeepPCB out as a user's folder: good templates to train on, real boards to test and calibrate on.

    python -m bench.board_folders --boards ../shared/data/deeppcb --out boards_good
    python -m bench.board_folders --boards ../shared/data/deeppcb --out boards_moved --moved --templates 100
    python -m bench.board_folders --boards ../shared/data/deeppcb --out boards_near --moved --turn 2 --shift 4 \
        --references 8 --templates 40 --calibration 0 --tests 400

`train/good` holds crops of defect-free templates alone, `test/` and `ground_truth/` the crops of real boards that
configs/deeppcb.py is tested on, `calibrate/` good crops of other real boards, each with its template of the same name
under `references/` or `calibrate_references/`. With
`--config.data.test_fraction=0.9999` none of the real defects trains.
With `--moved` each image is turned by up to 10 degrees and shifted by up to 24 px, its template is not. With
`--references 8` each image has so many, its template turned and shifted anew for each, by as much as the images.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, decode_rgb, encode_png
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources import deeppcb

SIDE_PX: Final = 128
_AROUND_PX: Final = 208
"""Side of what a moved crop is cut from, so that it shows the board up to its corners."""
_LEAST_SHARE: Final = 0.5
"""Share of a defect's pixels that a moved crop must show to be called defective."""


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", required=True, help="DeepPCB in its authors' layout")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--templates", type=int, default=800, help="template crops to train on")
    parser.add_argument("--tests", type=int, default=600, help="crops of real boards to test on")
    parser.add_argument("--calibration", type=int, default=200, help="good crops of real boards to calibrate on")
    parser.add_argument("--moved", action="store_true", help="turn and shift images, not their templates")
    parser.add_argument("--turn", type=float, default=10.0, help="largest turn of moved images, degrees")
    parser.add_argument("--shift", type=float, default=24.0, help="largest shift of moved images, px")
    parser.add_argument("--references", type=int, default=1, help="references of each image; several are moved too")
    options = parser.parse_args()
    out, number = Path(options.out), options.templates + options.calibration
    most = Motion(np.deg2rad(options.turn), options.shift) if options.moved else None
    for index, image in enumerate(_crops(options.boards, "train", number, moved=options.moved, good_alone=True)):
        name = f"{index:05d}.png"
        if index < options.templates:
            template = dataclasses.replace(image, test_image=image.reference_image or b"")
            write(out / "train/good" / name, _seen(template, index, most)[0])
            _write_references(out / "references/train/good" / name, image, index, most, options.references)
        else:
            write(out / "calibrate" / name, _seen(image, index, most)[0])
            _write_references(out / "calibrate_references" / name, image, index, most, options.references)
    for index, image in enumerate(_crops(options.boards, "test", options.tests, moved=options.moved)):
        kind, name = image.defects[0].type if image.defects else "good", f"{index:05d}.png"
        test, mask, share = _seen(image, index, most)
        if image.defects and share < _LEAST_SHARE:
            continue
        write(out / "test" / kind / name, test)
        _write_references(out / "references/test" / kind / name, image, index, most, options.references)
        if image.defects:
            write(out / "ground_truth" / kind / f"{index:05d}_mask.png", mask)


@dataclasses.dataclass(frozen=True)
class Motion:
    """Largest turn, radians, and shift, px."""

    turn: float
    shift: float


def _write_references(path: Path, image: AnnotatedImage, index: int, most: Motion | None, number: int) -> None:
    """Writes the image's template as it lies; or several, each turned and shifted anew, into a folder."""
    if number == 1:
        write(path, _still(image))
        return
    template = dataclasses.replace(image, test_image=image.reference_image or b"")
    for turn in range(number):
        write(path.with_suffix("") / f"{turn}.png", _seen(template, index + 10**6 * (1 + turn), most)[0])


def _crops(
    boards: str, split: Literal["train", "test"], number: int, *, moved: bool, good_alone: bool = False
) -> Iterator[AnnotatedImage]:
    """Crops as configs/deeppcb.py draws them, or larger ones to be cut from; good ones alone, or half of them."""
    data = DataConfig(
        source="deeppcb",
        root=boards,
        num_train=number,
        num_test=number,
        image_px=_AROUND_PX if moved else SIDE_PX,
        defect_rate=0.0 if good_alone else 0.5,
    )
    return (image for image in deeppcb.read_images(data, split, 0) if isinstance(image, AnnotatedImage))


def _seen(image: AnnotatedImage, index: int, most: Motion | None) -> tuple[bytes, bytes, float]:
    """The test image and its mask as the camera has them, and the share of the mask that is in view."""
    mask = decode_mask(image.mask or b"")
    if most is None:
        return image.test_image, image.mask or b"", 1.0
    rng = np.random.default_rng([index, len(image.image_id)])
    turn, shift = rng.uniform(-most.turn, most.turn), rng.uniform(-most.shift, most.shift, 2)
    pixels = decode_rgb(image.test_image, name=image.test_path).astype(np.float32)
    planes = [_moved(pixels[..., channel], turn, shift, order=1) for channel in range(3)]
    marked = _moved(mask.astype(np.float32), turn, shift, order=0) > 0.5
    test = np.clip(np.stack(planes, axis=-1) + 0.5, 0.0, 255.0).astype(np.uint8)
    return encode_png(test), encode_png(marked), float(marked.sum() / max(1, mask.sum()))


def _moved(plane: np.ndarray, turn: float, shift: np.ndarray, *, order: int) -> np.ndarray:
    """The middle of a plane that was turned about its middle and shifted."""
    middle = (np.array(plane.shape) - 1) / 2.0
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    view = np.mgrid[:SIDE_PX, :SIDE_PX] - (SIDE_PX - 1) / 2.0 - shift[:, None, None]
    places = np.einsum("ij,jyx->iyx", back, view) + middle[:, None, None]
    return np.asarray(ndimage.map_coordinates(plane, places, order=order, mode="nearest"))


def _still(image: AnnotatedImage) -> bytes:
    """The middle of the template."""
    pixels = decode_rgb(image.reference_image or b"", name=image.reference_path)
    start = (pixels.shape[0] - SIDE_PX) // 2
    return encode_png(np.ascontiguousarray(pixels[start : start + SIDE_PX, start : start + SIDE_PX]))


def write(path: Path, content: bytes) -> None:
    """Writes a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    main()
