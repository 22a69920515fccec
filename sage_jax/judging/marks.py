"""Marks read from a judge's reply; whatever is no three marks is refused, and never becomes a score."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from sage_jax.endpoint.asking import RefusedReply
from sage_jax.metrics.agreement import MARKS
from sage_jax.metrics.mle import MleScore

ASPECTS: Final = ("accuracy", "localization", "logic")

_THOUGHTS: Final = re.compile(r"\A.*</think>", re.DOTALL)
_MOST_READ: Final = 20_000
"""Letters at the end of a reply that are looked through."""


def read_marks(reply: str) -> MleScore:
    """The three marks of a reply: a JSON object with whole numbers from 1 to 5, whatever text stands around it.

    Thoughts up to `</think>` are passed over. Two objects that differ are refused: nobody knows which is meant.

    Raises:
      RefusedReply: There are no such marks; the message says what there is.
    """
    text = _THOUGHTS.sub("", reply)[-_MOST_READ:]
    found = [item for item in _objects(text) if any(name in item for name in ASPECTS)]
    if not found:
        raise RefusedReply(f"no JSON object with marks in the reply {_shown(text)}")
    if any(item != found[0] for item in found):
        raise RefusedReply(f"several judgements in the reply {_shown(text)}")
    return MleScore(*(_mark(name, found[0].get(name)) for name in ASPECTS))


def _mark(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int) or given not in MARKS:
        raise RefusedReply(f"{name} = {_shown(json.dumps(given))} is no whole number from 1 to 5")
    return float(given)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, from left to right; those inside of others where the outer one has no marks."""
    decoder, start = json.JSONDecoder(object_pairs_hook=_once), text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, after = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            pass
        else:
            yield value
            if any(name in value for name in ASPECTS):
                end = after
        start = text.find("{", end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dictionary; of a key that stands twice the values as a list, which is no mark."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = [found[name], value] if name in found else value
    return found


def _shown(text: str) -> str:
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= 120 else f"{one_line[:80]} ... {one_line[-30:]}")
