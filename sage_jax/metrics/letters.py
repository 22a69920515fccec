"""The letter of an option, read from a written answer: by our reading, and by that of MMAD's own evaluator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_OPENING: Final = re.compile(r"[\s*_`\"'(\[]*([A-Z])[\s*_`\"']*(?:[.:)\]]|$|\s[-–—]\s|\n)")
_NAMED: Final = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?[\s*_`\"'(\[]*([A-Z])(?![\w'])", re.IGNORECASE)
_OFFICIAL: Final = re.compile(r"\b([A-E])\b")


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names; None where it names none, or more than one.

    An answer names the letter that it opens with (the article "A" is none), else the one that follows "answer",
    "option" or "choice", else the option whose text it repeats.

    "B"                 B      "The answer is (C)."           C
    "**A.** Yes."       A      "A scratch is at the top."     None
    "No."               the option whose text is "No"

    Args:
      options: Text of each option by its letter.
    """
    text = answer.strip()
    opening = _OPENING.match(text)
    if opening is not None:
        return opening[1] if opening[1] in options else None
    named = {match[1].upper() for match in _NAMED.finditer(text) if match[1].isupper()}
    if named:
        return named.pop() if len(named) == 1 and named <= set(options) else None
    repeated = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    return repeated[0] if len(repeated) == 1 else None


def official_letter(answer: str) -> str:
    """What MMAD's own scripts read: the last capital A to E that stands alone, whatever the options; "" without one."""
    return (_OFFICIAL.findall(answer) or [""])[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!\"'*")
