"""Copies of images told from images that are only alike, on real boards: `python -m bench.copies DEEPPCB --boards 100`.

Each tested board is compared with its template, whole and cut at the same places: one product on two images, with and
without a defect. None of these is a copy. The same cuts saved as JPEG and made smaller are.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from sage_jax.data.copies import same_picture
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault
from sage_jax.data.sources.deeppcb_boards import BoardCache, read_boards

_SIDES: Final = (128, 256, 640)
_QUALITIES: Final = (95, 75, 50)
_SHARES: Final = (0.9, 0.75, 0.5)
_CUTS: Final = 4


def cuts(root: Path, boards: int, seed: int = 0) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cuts [S, S] of tested boards and of their templates at the same places, with their side in pixels."""
    known = [board for split in ("train", "test") for board in read_boards(root, split) if not isinstance(board, Fault)]
    rng, cache = np.random.default_rng(seed), BoardCache(root, known)
    for index in rng.permutation(len(known))[:boards]:
        pair = cache[int(index)]
        if isinstance(pair, Fault):
            continue
        for side in _SIDES:
            for _ in range(1 if side >= min(pair.test.shape) else _CUTS):
                top, left = (int(rng.integers(0, max(length - side, 0) + 1)) for length in pair.test.shape)
                place = slice(top, top + side), slice(left, left + side)
                yield side, pair.test[place], pair.reference[place]


def measure(root: Path, boards: int) -> dict[str, str]:
    """How many of how many pairs are called one picture, by what was compared."""
    called: collections.defaultdict[str, list[bool]] = collections.defaultdict(list)
    for number, (side, tested, template) in enumerate(cuts(root, boards)):
        if tested.std() == 0:
            continue
        whole = encode_png(tested)
        called[f"template, {side} px"].append(same_picture(whole, encode_png(template)))
        if number % 3:
            continue
        image = Image.fromarray(tested)
        for quality in _QUALITIES:
            called[f"JPEG {quality}, {side} px"].append(same_picture(whole, _jpeg(image, quality)))
        for share in _SHARES:
            if round(side * share) >= _SIDES[0]:
                small = image.resize((round(side * share), round(side * share)), Image.Resampling.BICUBIC)
                called[f"{share:g} of {side} px"].append(same_picture(whole, _jpeg(small, 90)))
    return {name: f"{sum(found)} of {len(found)}" for name, found in called.items()}


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main() -> None:
    """Prints the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--boards", type=int, default=100)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.root, arguments.boards), indent=1))


if __name__ == "__main__":
    main()
