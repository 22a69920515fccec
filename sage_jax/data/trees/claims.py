"""The tokens of an answer that carry what it claims: its verdict, and the names of defects and places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from sage_jax.axes import Bool
from sage_jax.verdict import Language, split_verdict

Span = tuple[int, int]


def name_pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Finds names as whole words, longest first ("upper left" before "left"), hyphens as spaces; None without any."""
    plain = {" ".join(re.split(r"[-_\s]+", name.lower().strip())) for name in names} - {""}
    if not plain:
        return None
    ordered = sorted(plain, key=lambda name: (-len(name), name))
    forms = (r"[-\s]".join(map(re.escape, name.split(" "))) for name in ordered)
    # The article belongs to it: "an" has chosen among the names before the name itself is written.
    return re.compile(rf"\b(?:an?\s+)?(?:{'|'.join(forms)})(?:es|s)?\b", re.IGNORECASE)


def claim_spans(answer: str, names: re.Pattern[str] | None, language: Language = "en") -> list[Span]:
    """Where the answer's verdict and the names in its reason stand, as ranges of characters."""
    verdict, reason = split_verdict(answer, language)
    start = len(answer) - len(reason)
    spans = [(0, start)] if verdict is not None else []
    if names is not None:
        spans += [(start + found.start(), start + found.end()) for found in names.finditer(reason)]
    return spans


def overlapping(offsets: Sequence[Span], spans: Sequence[Span]) -> Bool[np.ndarray, " L"]:
    """True at the tokens, given by their ranges of characters, that share a character with one of the spans."""
    return np.array([any(start < high and end > low for low, high in spans) for start, end in offsets], np.bool_)
