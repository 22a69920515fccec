"""Parts of readers of question sets: a JSON file, its fields, and faults with the line that they stand on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sage_jax.benchmark.items import Item
from sage_jax.data.images import forward_slashes
from sage_jax.data.records import Fault
from sage_jax.errors import ConfigError, plain


@dataclasses.dataclass(frozen=True)
class QuestionSet:
    """What a reader found.

    Attributes:
      items: The good items, in the order of the set.
      faults: Of the others.
      content: Names and contents of the files, for the revision.
      notes: What the user should know beside, a sentence each.
    """

    items: list[Item]
    faults: list[Fault]
    content: dict[str, bytes]
    notes: tuple[str, ...] = ()


class BadItem(ValueError):
    """What is wrong with an item; the second argument is the way out."""


def read_text(path: Path, field: str) -> str:
    """The text of a JSON file.

    Raises:
      ConfigError: It cannot be read, or is not UTF-8; the message names the config's field.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{field} = {str(path)!r}: {error.strerror or error}: name the JSON file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field}: {path} is not UTF-8 at byte {error.start}: save it as UTF-8") from None


def parse(path: Path, text: str) -> Any:
    """The content of a JSON file, whose keys each stand once in their object.

    Raises:
      ConfigError: It is no JSON; the message has the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        why = "it ends too early: complete the file" if error.pos >= len(text.rstrip()) else "correct the JSON"
        raise ConfigError(f"{path}:{error.lineno}: {error.msg} ({why})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be parsed: {error} (correct the JSON)") from None


class LineFinder:
    """Lines of a JSON text on which strings stand, asked for in the order of the text: it is walked through once.

    Args:
      text: The file.
      keys: Whether the strings are keys of objects.
    """

    def __init__(self, text: str, *, keys: bool) -> None:
        self._text, self._behind = text, r"\s*:" if keys else ""
        self._at, self._line = 0, 1

    def line_of(self, wanted: str) -> int | None:
        """Line of the next place of a string, from 1; None where there is none, or it is written in another way."""
        for written in dict.fromkeys((json.dumps(wanted, ensure_ascii=False), json.dumps(wanted))):
            found = re.compile(re.escape(written) + self._behind).search(self._text, self._at)
            if found is not None:
                self._line += self._text.count("\n", self._at, found.start())
                self._at = found.start()
                line, step = self._line, found.end() - self._at
                self._line += self._text.count("\n", self._at, self._at + step)
                self._at += step
                return line
        return None


def text_of(fields: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text that must be there.

    Raises:
      BadItem: It is missing, no text, or empty.
    """
    if key not in fields:
        raise BadItem(f"{where}{key} is missing", "add it")
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise BadItem(f"{where}{key} is {'empty' if isinstance(value, str) else shown(value)}", "give it a text")
    return plain_text(value, f"{where}{key}")


def plain_text(value: str, where: str) -> str:
    """The text, if a tokenizer can take it.

    Raises:
      BadItem: It holds half of a surrogate pair.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadItem(f"{where} holds half a character: {plain(value)[:40]}", "write the whole character") from None
    return value.strip()


def path_of(value: str) -> str:
    """A path below the images' root without needless parts; `..` and a leading `/` stay, to be refused."""
    return str(PurePosixPath(forward_slashes(value.strip())))


def objects_in(fields: Mapping[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list that must not be empty, with their numbers from 1.

    Raises:
      BadItem: It is missing, no list, empty, or holds something else.
    """
    found = fields.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        problem = "is missing" if key not in fields else f"is {shown(found)}"
        raise BadItem(f"{key} {problem}", "give a list with a question or more")
    for number, value in enumerate(found, start=1):
        if not isinstance(value, dict):
            raise BadItem(f"question {number} is {shown(value)}", "make it an object")
        yield number, value


def shown(value: object) -> str:
    """What a value of the wrong kind is, for a message."""
    if value in ("", [], {}, ()):
        return "empty"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
