"""Share of images that a calibrated run calls unsure: images like its own, under another lamp, and of other things.

    pip install scikit-image
    python -m bench.unfamiliar --run runs/deeppcb_0 --folder boards_good
    python -m bench.unfamiliar --run runs/quickstart --folder products --alone

`--folder` is what bench/board_folders.py or bench/product_folders.py wrote, and the run has been calibrated on its
`calibrate/`. The photographs are those that come with scikit-image, each whole and its four corners, compared with the
folder's first reference; or nothing is compared, `--alone`, where the run was calibrated without references. The good
images are shown once more under each of `LAMPS`, beside references under the old one; `--others` names a folder of
images of another product, compared with the first reference too.

Beside each share stands that of the simplest rival: the median of the absolute difference to the reference, in grey
levels, against its own conformal limit at 2 % on the same calibration images.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

import sage_jax
from sage_jax.axes import UInt8

PHOTOGRAPHS: Final = (
    "astronaut", "brick", "camera", "cat", "chelsea", "clock", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "rocket", "text",
)  # fmt: skip

LAMPS: Final = ((1.1, 0.0), (1.4, 40.0), (0.6, 0.0))
"""Factor of grey levels, and what is added to them: a little brighter, much brighter, darker."""


def main() -> None:
    """Prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a calibrated run")
    parser.add_argument("--folder", required=True, help="what bench/board_folders.py or bench/product_folders.py wrote")
    parser.add_argument("--most", type=int, default=200, help="most crops of each kind")
    parser.add_argument("--others", help="a folder of images of another product")
    parser.add_argument("--alone", action="store_true", help="without references, as the run was calibrated")
    options = parser.parse_args()
    inspector, folder = sage_jax.load(options.run), Path(options.folder)
    calibrated = sorted((folder / "calibrate").iterdir())
    own = [folder / "calibrate_references" / path.name for path in calibrated]
    limit = _limit([_apart(path, each) for path, each in zip(calibrated, own, strict=True)])
    for kind in sorted(path.name for path in (folder / "test").iterdir()):
        found, apart = [], []
        for path in sorted((folder / "test" / kind).iterdir())[: options.most]:
            reference = folder / "references/test" / kind / path.name
            found.append(inspector.inspect(path, references=None if options.alone else reference))
            apart.append(_apart(path, reference))
        _print(f"like its own, {kind}", found, apart, limit)
    good = sorted((folder / "test/good").iterdir())[: options.most]
    references = [folder / "references/test/good" / path.name for path in good]
    for factor, added in LAMPS:
        lit = [_under_a_lamp(path, factor, added) for path in good]
        pairs = zip(lit, [None] * len(lit) if options.alone else references, strict=True)
        found = [inspector.inspect(pixels, references=each) for pixels, each in pairs]
        apart = [_apart(pixels, each) for pixels, each in zip(lit, references, strict=True)]
        _print(f"good under another lamp, x {factor:g} {added:+g}", found, apart, limit)
    reference = sorted((folder / "references/test/good").iterdir())[0]
    if options.others:
        others = sorted(path for path in Path(options.others).rglob("*") if path.is_file())[: options.most]
        found = list(inspector.inspect_many(others, None if options.alone else reference))
        _print("another product", found, [_apart(path, reference) for path in others], limit)
    far = list(photographs(Image.open(reference).width))
    given = None if options.alone else reference
    found = list(inspector.inspect_many((pixels for _, pixels in far), given))
    _print("photographs of other things", found, [_apart(pixels, reference) for _, pixels in far], limit)
    called = [f"{name} ({one.score:.3f})" for (name, _), one in zip(far, found, strict=True) if one.verdict != "unsure"]
    print(f"not called unsure: {', '.join(called) or 'none'}")


def _under_a_lamp(path: Path, factor: float, added: float) -> UInt8[np.ndarray, "H W 3"]:
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    return np.clip(pixels * factor + added, 0.0, 255.0).round().astype(np.uint8)


def photographs(side: int) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
    """Name and pixels of each photograph, shrunk to a side in px, and of its corners at full size."""
    data = importlib.import_module("skimage.data")
    for name in PHOTOGRAPHS:
        pixels = np.asarray(getattr(data, name)())
        pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
        yield name, np.asarray(Image.fromarray(pixels).resize((side, side)))
        height, width = pixels.shape[:2]
        for top in (0, height - side):
            for left in (0, width - side):
                yield f"{name} {top},{left}", np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _apart(image: Path | UInt8[np.ndarray, "H W 3"], reference: Path) -> float:
    """Median of the absolute difference of grey values."""
    shown = Image.open(image) if isinstance(image, Path) else Image.fromarray(image)
    good = Image.open(reference)
    return float(np.median(np.abs(_grey(shown, good.size) - _grey(good, good.size))))


def _grey(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.convert("L").resize(size), np.float32)


def _limit(values: list[float], rate: float = 0.02) -> float:
    """The value that at most `rate` of further ones exceed, on average (split conformal prediction)."""
    return sorted(values)[min(math.ceil((len(values) + 1) * (1.0 - rate)), len(values)) - 1]


def _print(name: str, found: list[sage_jax.Inspection], apart: list[float], limit: float) -> None:
    unsure = [one for one in found if one.verdict == "unsure"]
    why = ", ".join(f"{number} {doubt}" for doubt, number in Counter(one.doubt for one in unsure).most_common())
    rival = sum(value > limit for value in apart)
    print(f"{name}: {len(unsure)} of {len(found)} unsure, {rival} by plain difference{'; ' + why if why else ''}")


if __name__ == "__main__":
    main()
