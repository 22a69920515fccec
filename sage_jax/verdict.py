"""The verdict that an answer begins with: one reading of it for data sets, metrics and the rubric judge."""

from __future__ import annotations

import re
from typing import Final

_VERDICT: Final = re.compile(
    r"""[\W_]*                                  # markdown, quotes, brackets, blanks
        (?P<verdict>yes|true|no|false)(?![a-z0-9])
        (?!\s*(?:/|\bor\b)\s*(?:yes|true|no|false)) # the choices repeated ("Yes or no?") are no verdict
    """,
    re.IGNORECASE | re.VERBOSE,
)


def parse_verdict(answer: str) -> bool | None:
    """The verdict that an answer begins with: True for yes or true, False for no or false, None where there is none.

    "Yes, there is a crack."  True      "**False.** All pins are there."  False
    "No defect is visible."   False     "Nothing is wrong."               None
    "Yes or no? Yes."         None      ""                                None
    """
    return split_verdict(answer)[0]


def split_verdict(answer: str) -> tuple[bool | None, str]:
    """The verdict, and the reason that follows it; without a verdict the whole answer is reason."""
    match = _VERDICT.match(answer)
    if match is None:
        return None, answer
    return match["verdict"].lower() in ("yes", "true"), answer[match.end() :]
