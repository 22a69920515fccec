"""Defects drawn into photographs of good parts, with exact masks: training data where real defects are few or none."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool
from sage_jax.data.drawing.fields import Picture, grid
from sage_jax.data.drawing.marks import BEYOND, MAKERS, Part
from sage_jax.data.drawing.variation import vary
from sage_jax.data.images import ImageFault, decode_rgb, encode_png
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault

VERSION: Final = 1
"""Raised whenever the same seed draws other defects, so that stored data sets are built again."""

DRAWN: Final = "#drawn-"
"""Stands in the id of an image with drawn defects, before its number."""

VARIED: Final = "#varied-"
"""The same for a copy of a good image."""

_CHANGED: Final = 10.0 / 255.0
_LEAST_CONTRAST: Final = 0.1
_LEAST_PX: Final = 6
_MOST_SHARE: Final = 0.12
_TWO_RATE: Final = 0.2
_TRIES: Final = 20
_DONORS: Final = 8


def source_id(image_id: str) -> str:
    """Id of the image that a copy was made of; that of any other image is its own."""
    return image_id.partition(DRAWN)[0].partition(VARIED)[0]


def kinds() -> tuple[str, ...]:
    """Kinds that are drawn, in the words of the built-in vocabulary."""
    return tuple(MAKERS)


def with_drawn_defects(
    images: Iterable[AnnotatedImage | Fault], *, number: int, variation: float, seed: int
) -> Iterator[AnnotatedImage | Fault]:
    """The images, and behind each good one more of it: as many defective as good in all.

    Behind a good image come `number` with one or two defects drawn into it, and `number - 1` that are good, each
    varied as another photograph of the part would be. They are compared with the reference of the image; one that has
    none is the reference of its own copies.

    Args:
      images: Of a training split.
      number: Of defective images drawn of each good one.
      variation: How much copies vary (`vary`).
      seed: Of all draws.
    """
    donors: dict[str, collections.deque[np.ndarray]] = collections.defaultdict(
        lambda: collections.deque(maxlen=_DONORS)
    )
    for index, image in enumerate(images):
        yield image
        if isinstance(image, Fault) or image.defects:
            continue
        try:
            pixels = decode_rgb(image.test_image, name=image.test_path)
        except ImageFault:
            continue  # told of the image itself
        donors[image.category].append(pixels)
        picture = _as_picture(pixels)
        for copy in range(number):
            rng = np.random.default_rng([VERSION, seed, index, copy])
            varied = vary(picture, rng, variation)
            donor = donors[image.category][int(rng.integers(len(donors[image.category])))]
            changed, masks = draw_defects(varied, _as_picture(donor), rng)
            yield _copy(image, f"{DRAWN}{copy}", changed, masks)
            if copy:
                yield _copy(image, f"{VARIED}{copy}", vary(picture, rng, variation), {})


def _as_picture(pixels: np.ndarray) -> Picture:
    return pixels.astype(np.float32) / 255.0


def _copy(image: AnnotatedImage, suffix: str, picture: Picture, masks: dict[str, np.ndarray]) -> AnnotatedImage:
    union = np.logical_or.reduce([np.zeros(picture.shape[:2], np.bool_), *masks.values()])
    own = image.reference_image is None
    return dataclasses.replace(
        image,
        image_id=image.image_id + suffix,
        test_image=encode_png((picture * 255.0 + 0.5).astype(np.uint8)),
        reference_image=image.test_image if own else image.reference_image,
        reference_path=image.test_path if own else image.reference_path,
        defects=tuple(Defect(kind, box_of(mask)) for kind, mask in masks.items()),
        mask=encode_png(union),
        test_path=image.test_path + suffix,
    )


def draw_defects(
    picture: Picture, donor: Picture, rng: np.random.Generator
) -> tuple[Picture, dict[str, Bool[np.ndarray, "H W"]]]:
    """The picture with one or two defects of different kinds, and the mask of each.

    A defect is inside the part where the part can be told from the ground, and is drawn again until it is visible:
    its change stands out by more than the picture's own noise, and it is neither a speck nor most of the picture.

    Args:
      picture: A good part, 0 to 1.
      donor: Another photograph of the set, or the same.
    """
    inside, ground = foreground(picture)
    rows, columns = np.nonzero(inside)
    size = float(min(np.ptp(rows), np.ptp(columns)) + 1)
    part = Part(picture, inside, ground, donor, grid(picture.shape[0], picture.shape[1], size))
    count = 2 if rng.random() < _TWO_RATE else 1
    masks: dict[str, np.ndarray] = {}
    for kind in rng.permutation(list(MAKERS))[:count]:
        changed, mask = _draw(str(kind), part, masks, rng)
        if mask.any():
            part = dataclasses.replace(part, picture=changed)
            masks[str(kind)] = mask
    if not masks:  # nothing shows on this picture: a spot of the other brightness always does
        changed, mask = _spot(part, rng)
        part, masks = dataclasses.replace(part, picture=changed), {"contamination": mask}
    return part.picture, masks


def _draw(kind: str, part: Part, taken: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[Picture, np.ndarray]:
    """One defect and its mask; an empty mask where no try could be seen."""
    smooth = ndimage.gaussian_filter(part.picture, (1.0, 1.0, 0.0))
    noise = float(np.median(np.abs(part.picture - smooth)))
    blocked = ndimage.binary_dilation(np.any(list(taken.values()), axis=0), iterations=2) if taken else None
    rows, columns = np.nonzero(part.inside)
    for _ in range(_TRIES):
        at = int(rng.integers(len(rows)))
        changed = np.clip(MAKERS[kind](part, float(rows[at]), float(columns[at]), rng), 0.0, 1.0).astype(np.float32)
        if kind not in BEYOND:
            changed = np.where(part.inside[..., None], changed, part.picture)
        change = np.abs(changed - part.picture).max(axis=-1)
        mask = change > max(_CHANGED, noise)
        visible = mask.sum() >= _LEAST_PX and mask.mean() <= _MOST_SHARE
        if visible and change[mask].mean() >= max(_LEAST_CONTRAST, 3.0 * noise):
            if blocked is None or not (mask & blocked).any():
                return changed, mask
    return part.picture, np.zeros(part.inside.shape, np.bool_)


def _spot(part: Part, rng: np.random.Generator) -> tuple[Picture, np.ndarray]:
    """A disc of the opposite brightness."""
    rows, columns = np.nonzero(part.inside)
    at, radius = int(rng.integers(len(rows))), max(2.0, part.grid.size * 0.06)
    mask = (part.grid.y - rows[at]) ** 2 + (part.grid.x - columns[at]) ** 2 <= radius**2
    changed = part.picture.copy()
    changed[mask] = 0.0 if part.picture[mask].mean() > 0.5 else 1.0
    return changed, mask


def foreground(picture: Picture) -> tuple[Bool[np.ndarray, "H W"], np.ndarray | None]:
    """Where the part is, and the colour of the ground behind it; everywhere and None where that cannot be told.

    The ground is what the image's border mostly shows. It can be told from the part if nearly all of the border is
    ground, and the rest, in one piece mostly, fills between 5 and 85 % of the image.
    """
    height, width = picture.shape[:2]
    rim = max(1, min(height, width) // 32)
    border = np.ones((height, width), np.bool_)
    border[rim:-rim, rim:-rim] = False
    ground = np.median(picture[border], axis=0)
    apart = ndimage.gaussian_filter(np.abs(picture - ground).max(axis=-1), 1.0)
    threshold = max(0.08, 4.0 * float(np.median(apart[border])))
    inside = ndimage.binary_opening(apart > threshold, iterations=2)
    everywhere = np.ones((height, width), np.bool_)
    if not 0.05 <= inside.mean() <= 0.85 or inside[border].mean() > 0.1:
        return everywhere, None
    labels = np.zeros(inside.shape, np.int32)
    ndimage.label(inside, output=labels)
    areas = np.bincount(labels.ravel())[1:]
    return (labels == areas.argmax() + 1, ground) if areas.max() >= 0.7 * areas.sum() else (everywhere, None)


def box_of(mask: Bool[np.ndarray, "H W"]) -> Box:
    """The box about a mask."""
    rows, columns = np.nonzero(mask)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
