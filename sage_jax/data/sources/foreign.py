"""JSON of other programs, told apart by its keys, so that a file that is no AD-PL JSON is refused by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_RANKED: Final = "AD-PL wants 5 questions of an image with 4 ranked answers each, which cannot be had from it"
_ASKED: Final = "the stage benchmark asks a model its questions"
_PAIRS: Final = "write each image's rows as one AD-PL item: question_en, and answer_options from chosen to rejected"


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


def _is_manta(item: Mapping[str, Any]) -> bool:
    asked = item.get("question_answer")
    return isinstance(asked, list) and any(
        isinstance(one, dict) and isinstance(one.get("answer"), bool) and "answer_options" not in one for one in asked
    )


ITEM_KINDS: Final = (
    Kind("MANTA's questions (answer: true or false, no ranked answers)", f"{_RANKED}; {_ASKED}", _is_manta),
    Kind("preference rows of LLaMA-Factory (conversations, chosen, rejected)", _PAIRS, _has("conversations", "chosen")),
    Kind("preference rows of TRL (prompt, chosen, rejected)", _PAIRS, _has("prompt", "chosen", "rejected")),
    Kind("preference rows of InternVL (question, chosen, rejected)", _PAIRS, _has("question", "chosen", "rejected")),
    Kind("preference rows of ms-swift (messages, rejected_response)", _PAIRS, _has("messages", "rejected_response")),
    Kind(
        "rows of SAGE's released SFE data (conversations, description)", _RANKED, _has("conversations", "description")
    ),
    Kind("chat rows of LLaVA or InternVL (conversations), not preference rows", _RANKED, _has("conversations")),
    Kind("chat rows (messages), not preference rows", _RANKED, _has("messages")),
)
"""Kinds of items of a list, or of lines; the first that fits counts."""


def item_kind(items: Sequence[Any]) -> Kind | None:
    """What the items of a list are, if the first ones are all of one kind that is not AD-PL's."""
    first = [item for item in items[:5] if isinstance(item, dict)]
    return next((kind for kind in ITEM_KINDS if first and all(kind.fits(item) for item in first)), None)


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
        cure = "the rows are in the files that it names; AD-PL items are wanted"
        return Kind("a meta JSON of InternVL (root, annotation)", cure, _has())
    if {"train", "test"} & set(content):
        return Kind("a meta.json of images by split", "set data.source to meta", _has())
    if {"images", "annotations"} <= set(content):
        cure = "draw the boxes or polygons as masks, and lay the images out as data.source=mvtec reads them"
        return Kind("annotations of COCO", cure, _has())
    return item_kind([content])
