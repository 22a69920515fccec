"""Lays crops of DeepPCB out as a user's folder: good templates to train on, real boards to test and calibrate on.

    python bench/board_folders.py --boards ../shared/data/deeppcb --out boards_good

`train/good` holds crops of defect-free templates alone, `test/` and `ground_truth/` the crops of real boards that
configs/deeppcb.py is tested on, `calibrate/` good crops of other real boards, each with its template of the same name
under `references/` or `calibrate_references/`. With
`--config.data.test_fraction=0.9999` none of the real defects trains.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Literal

from sage_jax.config import DataConfig
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources import deeppcb


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", required=True, help="DeepPCB in its authors' layout")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--templates", type=int, default=800, help="template crops to train on")
    parser.add_argument("--tests", type=int, default=600, help="crops of real boards to test on")
    parser.add_argument("--calibration", type=int, default=200, help="good crops of real boards to calibrate on")
    options = parser.parse_args()
    out = Path(options.out)
    data = DataConfig(source="deeppcb", root=options.boards, num_test=options.tests, image_px=128)
    for index, image in enumerate(_crops(data, "train", options.templates + options.calibration)):
        name = f"{index:05d}.png"
        if index < options.templates:
            _write(out / "train/good" / name, image.reference_image)
            _write(out / "references/train/good" / name, image.reference_image)
        else:
            _write(out / "calibrate" / name, image.test_image)
            _write(out / "calibrate_references" / name, image.reference_image)
    for index, image in enumerate(_crops(data, "test", 0)):
        kind, name = image.defects[0].type if image.defects else "good", f"{index:05d}.png"
        _write(out / "test" / kind / name, image.test_image)
        _write(out / "references/test" / kind / name, image.reference_image)
        if image.defects:
            _write(out / "ground_truth" / kind / f"{index:05d}_mask.png", image.mask)


def _crops(data: DataConfig, split: Literal["train", "test"], good: int) -> list[AnnotatedImage]:
    """Crops of a split as configs/deeppcb.py draws them; so many good ones alone where that is above 0."""
    chosen = dataclasses.replace(data, num_train=good, defect_rate=0.0) if good else data
    return [image for image in deeppcb.read_images(chosen, split, 0) if isinstance(image, AnnotatedImage)]


def _write(path: Path, content: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or b"")


if __name__ == "__main__":
    main()
