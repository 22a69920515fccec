"""Items of a JSON file, a list or one a line, each with the line that it begins on."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.data.records import Fault
from sage_jax.errors import UserError

_GAP: Final = re.compile(r"[\s,]*")
_NEXT_ITEM: Final = re.compile(r"\{")
_MOST_TRIED: Final = 500


class FormatError(UserError):
    """A file that is not what its reader reads at all."""


class BadItem(ValueError):
    """What is wrong with an item's structure; the second argument is the way out."""


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of the list as it stands in the file, the line that it begins on, and its number, from 1.

    Attributes:
      where: What a fault adds to the line where several items begin on it: "item 3: "; else "".
    """

    line: int
    number: int
    fields: dict[str, Any]
    where: str = ""


def parse_items(path: Path, *, marks: Collection[str], wanted: str) -> list[Item | Fault]:
    """Items with their lines. One that cannot be parsed is a fault and does not lose the others.

    Args:
      path: A file that holds a list of objects, or an object a line.
      marks: Keys of which an item has one; behind a broken item the next object that has one is the next item.
      wanted: What the file should be, for messages: "an AD-PL JSON".

    Raises:
      FormatError: The file cannot be read, is not UTF-8, or holds neither a list nor objects.
    """
    text = _read(path, wanted)
    in_list = text.lstrip().startswith("[")
    if not in_list and not text.lstrip().startswith("{"):
        raise FormatError(f"{path}: holds no list: {wanted} begins with '[' and holds one object an item")
    newlines = [match.start() for match in re.finditer("\n", text)]
    items: list[Item | Fault] = []
    decoder = json.JSONDecoder()
    number = 0
    position = _skip(text, text.index("[") + 1) if in_list else _skip(text, 0)
    while position < len(text) and text[position] != "]":
        line = bisect.bisect_left(newlines, position) + 1
        number += 1
        try:
            value, end = decoder.raw_decode(text, position)
            if isinstance(value, dict):
                items.append(Item(line, number, value))
            else:
                items.append(Fault(str(path), line, f"item {number} is {json_kind(value)}", "make it an object"))
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            if isinstance(error, json.JSONDecodeError):
                line = error.lineno
            items.append(Fault(str(path), line, f"item {number} cannot be parsed: {problem}", "correct the JSON"))
            end = _next_item(text, position + 1, decoder, marks)
        position = _skip(text, end)
    if position >= len(text) and in_list:
        items.append(Fault(str(path), len(newlines) + 1, "ends inside the list", "complete the file, which is cut off"))
    elif text[position + 1 :].strip() and in_list:
        line = bisect.bisect_left(newlines, position) + 1
        items.append(Fault(str(path), line, "goes on after the list's end", "remove the ']' there, or what follows it"))
    begun = collections.Counter(item.line for item in items if isinstance(item, Item))
    return [
        dataclasses.replace(item, where=f"item {item.number}: ")
        if isinstance(item, Item) and begun[item.line] > 1
        else item
        for item in items
    ]


def holds_list(path: Path) -> bool:
    """Whether the file is a list, not one object or an object a line."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def text_of(fields: Mapping[str, Any], key: str, where: str = "") -> str:
    """A field that must be a text, without blanks around it.

    Raises:
      BadItem: It is missing, empty, another type, or holds half a character.
    """
    if key not in fields:
        raise BadItem(f"{where}{key} is missing", "add it")
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise BadItem(f"{where}{key} is {'empty' if isinstance(value, str) else json_kind(value)}", "give it a text")
    return plain_text(value, f"{where}{key}")


def plain_text(value: str, where: str) -> str:
    """The text, without blanks around it, if files and tokenizers can take it.

    Raises:
      BadItem: It holds half of a surrogate pair, which JSON can write.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadItem(f"{where} holds half a character: {value[:40]!a}", "write the whole character") from None
    return value.strip()


def list_of(fields: dict[str, Any], key: str, where: str = "") -> list[Any]:
    """A field that must be a list.

    Raises:
      BadItem: It is missing or another type.
    """
    if key not in fields:
        raise BadItem(f"{where}{key} is missing", "add it")
    if not isinstance(fields[key], list):
        raise BadItem(f"{where}{key} is {json_kind(fields[key])}", "make it a list")
    return fields[key]


def json_kind(value: object) -> str:
    """What a value of the wrong kind is, for a message."""
    if value in ("", [], {}, ()):
        return "empty"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read(path: Path, wanted: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}: set data.root to {wanted}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None


def _skip(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return match.end() if match else position


def _next_item(text: str, position: int, decoder: json.JSONDecoder, marks: Collection[str]) -> int:
    """Where the next whole item begins after a broken one; the end of the text if there is none.

    Of places that could be the beginning of one so many are tried: a text made of nothing else is not read for ever.
    """
    for match in itertools.islice(_NEXT_ITEM.finditer(text, position), _MOST_TRIED):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and not value.keys().isdisjoint(marks):
            return match.start()
    return len(text)
