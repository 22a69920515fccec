"""JSON and folders of other programs, told apart by keys and names, so that they are refused by their name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sage_jax.config import Source
from sage_jax.data.sources import dataset_info, real_iad, row_kinds
from sage_jax.data.sources.tree_files import folders_of

_RANKED: Final = "ranked answers, which training wants, cannot be had from it"
_ROWS: Final = "set data.source=rows, which reads and trains on them"
_MASKS: Final = "draw the boxes or polygons as masks, and lay the images out as data.source=mvtec reads them"
_MOST_LOOKED_AT: Final = 50
_ASKED: Final = "the stage benchmark asks a model its questions"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of JSON.

    Attributes:
      name: What it is, as one says "holds ...".
      cure: What to do with it.
      fits: Whether an item is of this kind.
      source: What reads it; None = nothing here does.
    """

    name: str
    cure: str
    fits: Callable[[Mapping[str, Any]], bool]
    source: Source | None = None


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda item: set(keys) <= set(item)


def _is_adpl(item: Mapping[str, Any]) -> bool:
    asked = item.get("question_answer")
    return "test_image" in item and isinstance(asked, list) and not _is_manta(item)


def _is_manta(item: Mapping[str, Any]) -> bool:
    asked = item.get("question_answer")
    return isinstance(asked, list) and any(
        isinstance(one, dict) and isinstance(one.get("answer"), bool) and "answer_options" not in one for one in asked
    )


ITEM_KINDS: Final = (
    Kind("MANTA's questions (answer: true or false, no ranked answers)", f"{_RANKED}; {_ASKED}", _is_manta),
    *(Kind(kind.name, _ROWS, kind.fits, "rows") for kind in row_kinds.KINDS),
)
"""Kinds of items of a list, or of lines; the first that fits counts."""


def item_kind(items: Sequence[Any]) -> Kind | None:
    """What the items of a list are, if the first ones are all of one kind that is not AD-PL's."""
    first = [item for item in items[:5] if isinstance(item, dict)]
    return next((kind for kind in ITEM_KINDS if first and all(kind.fits(item) for item in first)), None)


def kind_beside_rows(items: Sequence[Any]) -> Kind | None:
    """What the items of a file without rows are, AD-PL's too."""
    if items and isinstance(items[0], dict) and _is_adpl(items[0]):
        return Kind("AD-PL items (test_image, question_answer)", "set data.source=adpl", _is_adpl, "adpl")
    return object_kind(items[0]) if len(items) == 1 else item_kind(items)


def object_kind(content: Mapping[str, Any]) -> Kind | None:
    """What a JSON that is one object is."""
    values = [value for value in list(content.values())[:5] if isinstance(value, dict)]
    if values and all("conversation" in value for value in values):
        cure = (
            "it is a benchmark of multiple-choice questions without ranked answers: nothing can be trained on it; the "
            "stage benchmark asks a model its questions"
        )
        return Kind("MMAD's questions (mmad.json), keyed by image", cure, _has())
    if values and all("annotation" in value for value in values):
        return Kind("a meta JSON of InternVL (root, annotation)", _ROWS, _has(), "rows")
    if dataset_info.is_info(content):
        return Kind(f"LLaMA-Factory's {dataset_info.NAME}", f"{_ROWS}, under this very name", _has(), "rows")
    if real_iad.is_split(content):
        return Kind("a split JSON of Real-IAD", "set data.source=real_iad", _has(), "real_iad")
    if {"train", "test"} & set(content):
        return Kind("a meta.json of images by split", "set data.source to meta", _has(), "meta")
    if {"images", "annotations"} <= set(content):
        return Kind("annotations of COCO", _MASKS, _has())
    return item_kind([content])


def folder_kind(here: Path) -> Kind | None:
    """What a folder of another program or task is."""
    names = folders_of(here)
    places = (here, *(here / name for name in sorted(names)[:_MOST_LOOKED_AT]))
    if any({"rgb", "xyz"} <= folders_of(place / "train" / "good") for place in places):
        cure = "move what lies in each rgb/ up, and that of gt/ to ground_truth/<defect>, as MVTec AD has them"
        return Kind("MVTec 3D-AD (rgb and xyz)", cure, _has())
    if any(_is_real_iad(place) for place in places):
        cure = (
            "set data.root to its split JSON, or to the folder of these, and data.images_root to the folder of images"
        )
        return Kind("images of Real-IAD without their split files", cure, _has())
    if (here / "mmad.json").is_file():
        return Kind("MMAD's questions (mmad.json)", _ASKED, _has())
    if any({"images", "labels"} <= folders_of(place) for place in (here, here / "train", here / "valid")):
        return Kind("boxes in YOLO's layout (images, labels)", _MASKS, _has())
    if "Annotations" in names and "JPEGImages" in names:
        return Kind("boxes in Pascal VOC's layout (JPEGImages, Annotations)", _MASKS, _has())
    if "annotations" in names and any((here / "annotations").glob("*.json")):
        return Kind("annotations of COCO (annotations/*.json)", _MASKS, _has())
    return None


def _is_real_iad(here: Path) -> bool:
    return {"OK", "NG"} <= folders_of(here) and any(re.fullmatch(r"S\d+", name) for name in folders_of(here / "OK"))
