"""Lays drawn products out as a user's folder: good ones to calibrate on, and good and defective ones to inspect.

    python -m bench.product_folders --out products

Products of the categories that the quickstart tests on, each with its reference of the same name: `calibrate/` with
`calibrate_references/`, and `test/good/` and `test/defective/` with `references/test/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from bench.board_folders import write
from sage_jax.config import DataConfig
from sage_jax.data.sources.generated import draw

_SEED: Final = 20
"""Of these products; no run draws its own with it."""


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--calibration", type=int, default=200, help="good products to calibrate on")
    parser.add_argument("--tests", type=int, default=400, help="products to test on, half of them defective")
    parser.add_argument("--side", type=int, default=64, help="side of an image, px")
    options = parser.parse_args()
    out = Path(options.out)
    good = DataConfig(num_train=1, num_test=options.calibration, image_px=options.side, defect_rate=0.0)
    for index, image in enumerate(draw(good, "test", _SEED)):
        write(out / "calibrate" / f"{index:05d}.png", image.test_image)
        write(out / "calibrate_references" / f"{index:05d}.png", image.reference_image or b"")
    for index, image in enumerate(
        draw(DataConfig(num_train=1, num_test=options.tests, image_px=options.side), "test", _SEED + 1)
    ):
        kind = "defective" if image.defects else "good"
        write(out / "test" / kind / f"{index:05d}.png", image.test_image)
        write(out / "references/test" / kind / f"{index:05d}.png", image.reference_image or b"")


if __name__ == "__main__":
    main()
