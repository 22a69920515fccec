"""JSON of other programs, told apart by its keys, so that a file that is no AD-PL JSON is refused by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sage_jax.data.sources import row_kinds

_RANKED: Final = "ranked answers, which training wants, cannot be had from it"
_ROWS: Final = "set data.source=rows, which reads and trains on them"
_ASKED: Final = "the stage benchmark asks a model its questions"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of JSON.

    Attributes:
      name: What it is, as one says "holds ...".
      cure: What to do with it.
      fits: Whether an item is of this kind.
    """

    name: str
    cure: str
    fits: Callable[[Mapping[str, Any]], bool]


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
    *(Kind(kind.name, _ROWS, kind.fits) for kind in row_kinds.KINDS),
)
"""Kinds of items of a list, or of lines; the first that fits counts."""


def item_kind(items: Sequence[Any]) -> Kind | None:
    """What the items of a list are, if the first ones are all of one kind that is not AD-PL's."""
    first = [item for item in items[:5] if isinstance(item, dict)]
    return next((kind for kind in ITEM_KINDS if first and all(kind.fits(item) for item in first)), None)


def kind_beside_rows(items: Sequence[Any]) -> Kind | None:
    """What the items of a file without rows are, AD-PL's too."""
    if items and isinstance(items[0], dict) and _is_adpl(items[0]):
        return Kind("AD-PL items (test_image, question_answer)", "set data.source=adpl", _is_adpl)
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
        return Kind("a meta JSON of InternVL (root, annotation)", _ROWS, _has())
    if {"train", "test"} & set(content):
        return Kind("a meta.json of images by split", "set data.source to meta", _has())
    if {"images", "annotations"} <= set(content):
        cure = "draw the boxes or polygons as masks, and lay the images out as data.source=mvtec reads them"
        return Kind("annotations of COCO", cure, _has())
    return item_kind([content])
