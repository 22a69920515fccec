"""Reasons: whether the kind and the place that an answer names are those of a defect in the image.

| measure | right when |
|---|---|
| kind | a kind is named, and every kind named is in the image |
| place | a place is named, and every place named is the cell that holds the centre of one of the defects |
| both | kind and place are right, and of each kind named a defect lies in a cell that is named with it |

A cell that a defect merely touches does not count: large defects touch the middle of most images, so that "centre"
would be right nearly always. An answer that names nothing is wrong: who says less must not score more.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sage_jax.metrics.mle import Reading

Truth = tuple[str, str]
"""Kind and cell of one defect; "" where the cell is unknown."""


@dataclasses.dataclass(frozen=True)
class ReasonMarks:
    """What of an answer's reason is right.

    Attributes:
      kind: Every kind named is in the image.
      place: Every place named holds the centre of a defect; None where no place is known.
      both: Kinds and places belong together; None where no place is known.
    """

    kind: bool
    place: bool | None
    both: bool | None


def mark_reason(said: Reading, truths: Sequence[Truth]) -> ReasonMarks:
    """Marks of an answer about an image with these defects, one or more; an unknown cell leaves places unmarked."""
    kinds, cells = {kind for kind, _ in truths}, {cell for _, cell in truths}
    kind = bool(said.terms) and said.terms <= kinds
    if "" in cells:
        return ReasonMarks(kind, None, None)
    place = bool(said.places) and said.places <= cells
    together = all(any((term, cell) in truths for cell in named) for term, named in _named_together(said))
    return ReasonMarks(kind, place, kind and place and together)


def _named_together(said: Reading) -> Iterable[tuple[str, frozenset[str]]]:
    """Each kind with the places of its clause, or else with those that have no kind beside them."""
    alone = frozenset(itertools.chain.from_iterable(places for terms, places in said.clauses if not terms))
    for terms, places in said.clauses:
        for term in terms:
            yield term, places or alone or said.places


_PARTS: Final[dict[str, Callable[[Truth], object]]] = {
    "kind": lambda truth: truth[0],
    "place": lambda truth: truth[1],
    "both": lambda truth: truth,
}


def best_constant(images: Sequence[Sequence[Truth]]) -> dict[str, float | None]:
    """What the best answer would get that is the same for all of these images.

    Returns:
      Shares, 0 to 1, by `kind`, `place` and `both`; None where no image tells.
    """
    found: dict[str, float | None] = {}
    for name, part in _PARTS.items():
        told = [truths for truths in images if name == "kind" or not any(cell == "" for _, cell in truths)]
        sets = [{part(truth) for truth in truths} for truths in told]
        candidates = set[object]().union(*sets)
        shares = (sum(candidate in each for each in sets) / len(sets) for candidate in candidates)
        found[name] = max(shares, default=None)
    return found


def contradicts(said: Reading, *, abnormal_yes: bool) -> bool:
    """Whether an answer's words say another thing about the part than its verdict does.

    Words that call the part both good and defective contradict any verdict; words that call it neither, none. An
    answer without a verdict contradicts itself where its words say something.

    Args:
      abnormal_yes: Whether "yes" to this question means that the part is defective.
    """
    if said.state in ("", "both"):
        return said.state == "both"
    return said.verdict is None or (said.state == "defective") != (said.verdict == abnormal_yes)
