"""The base class of errors that a user can mend, and text that is safe to show."""

from __future__ import annotations

import re
from typing import Final

_MOST_OF_A_LINE: Final = 1000
_UNSHOWN: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with control characters and lone surrogates written out, and long lines cut in the middle.

    What a message quotes comes from files: it must neither steer a terminal nor fill it.
    """
    shown = _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return "\n".join(map(_cut, shown.split("\n")))


def _cut(line: str) -> str:
    if len(line) <= _MOST_OF_A_LINE:
        return line
    half = _MOST_OF_A_LINE // 2
    return f"{line[:half]} [... {len(line) - 2 * half} characters ...] {line[-half:]}"


class UserError(ValueError):
    """A fault of the input: its message names the file, line or field, and the way out."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ConfigError(UserError):
    """A config that cannot run; the message names the field."""
