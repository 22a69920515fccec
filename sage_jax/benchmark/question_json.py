"""Parts of readers of question sets: a JSON file, its fields, and faults with the line that they stand on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_jax.benchmark.items import Item
from sage_jax.data.records import Fault
from sage_jax.data.sources.items import BadItem, json_kind
from sage_jax.errors import ConfigError


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


def objects_in(fields: Mapping[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list that must not be empty, with their numbers from 1.

    Raises:
      BadItem: It is missing, no list, empty, or holds something else.
    """
    found = fields.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        problem = "is missing" if key not in fields else f"is {json_kind(found)}"
        raise BadItem(f"{key} {problem}", "give a list with a question or more")
    for number, value in enumerate(found, start=1):
        if not isinstance(value, dict):
            raise BadItem(f"question {number} is {json_kind(value)}", "make it an object")
        yield number, value
