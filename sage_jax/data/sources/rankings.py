"""Preferences between two answers joined into rankings of several."""

from __future__ import annotations

import functools
import graphlib
import operator
from collections.abc import Sequence
from typing import Final

from sage_jax.data.records import Answer
from sage_jax.data.sources.row_kinds import same_answer

BEST_SCORE: Final = 5.0
WORST_SCORE: Final = 1.0

Tiers = tuple[tuple[str, ...], ...]
"""Answers by rank, best first; those of one tier are not ordered among each other."""


def rankings(given: Sequence[tuple[str, ...]]) -> list[tuple[Answer, ...]]:
    """Ranked answers of one question, made of what rows say of it: pairs (better, worse), and answers alone.

    Pairs that share an answer are joined where together they are one order: any two answers are then either ordered, by
    the pairs or through others, or stand to all others alike, and share a rank. So no order is made up.

        (a, b) (b, c)           ->  a, b, c
        (a, b) (a, c)           ->  a, then b and c with the same score
        (a, b) (b, a)           ->  a, b and b, a: contradictory, each stays a question of its own
        (a, b) (a, c) (b, d)    ->  the three pairs: nobody said which of c and d is better
        (a, b) (a,)             ->  a, b: the answer alone adds nothing

    Args:
      given: Answers of each row, best first, in the rows' order.

    Returns:
      Rankings in the order of their first rows. Scores are given where answers share a rank: evenly from 5 to 1 by
      rank, as questions without scores are scored. An answer alone is a ranking of one.
    """
    texts: dict[str, str] = {}
    for answer in (answer for answers in given for answer in answers):
        texts.setdefault(same_answer(answer), answer)
    first_rows: dict[tuple[str, ...], int] = {}
    for number, answers in enumerate(given):
        first_rows.setdefault(tuple(map(same_answer, answers)), number)
    found: list[tuple[int, Tiers]] = []
    for component in _components([row for row in first_rows if len(row) > 1]):
        tiers = _tiers(component)
        if tiers:
            found.append((min(first_rows[pair] for pair in component), tiers))
        else:
            found += [(first_rows[pair], tuple((name,) for name in pair)) for pair in component]
    best = {name for _, tiers in found for name in tiers[0]}
    found += [(number, (row,)) for row, number in first_rows.items() if len(row) == 1 and row[0] not in best]
    return [_answers(tiers, texts) for _, tiers in sorted(found, key=lambda each: each[0])]


def pairs_of(answers: Sequence[Answer], *, only_extreme: bool) -> list[tuple[str, str]]:
    """The preferences of a ranking: each better answer with each worse, or the best with the worst alone.

    Answers of equal scores, where all have one, are no preference.
    """
    scores = [answer.score for answer in answers]
    scored = None not in scores
    chosen = [(0, len(answers) - 1)] if only_extreme else _ordered(len(answers))
    return [
        (answers[better].text, answers[worse].text)
        for better, worse in chosen
        if better < worse and not (scored and scores[better] == scores[worse])
    ]


def _ordered(number: int) -> list[tuple[int, int]]:
    return [(better, worse) for better in range(number) for worse in range(better + 1, number)]


def _components(pairs: Sequence[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    """The pairs in groups that share answers, directly or through others (union-find)."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = parents[parent]
            name = parent
        return name

    for better, worse in pairs:
        parents[root(worse)] = root(better)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for pair in pairs:
        groups.setdefault(root(pair[0]), []).append(pair)
    return list(groups.values())


def _tiers(pairs: Sequence[tuple[str, ...]]) -> Tiers | None:
    """The one order that pairs make together; None where they contradict each other or leave some answers apart."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    bits = {name: 1 << number for number, name in enumerate(names)}
    order = graphlib.TopologicalSorter({name: [] for name in names})
    worse_of: dict[str, list[str]] = {name: [] for name in names}
    for better, worse in pairs:
        order.add(better, worse)
        worse_of[better].append(worse)
    below: dict[str, int] = {}  # sets of answers, as bits: those known to be worse
    try:
        for name in order.static_order():  # worse answers first
            below[name] = functools.reduce(operator.or_, (bits[one] | below[one] for one in worse_of[name]), 0)
    except graphlib.CycleError:
        return None
    tiers: dict[int, list[str]] = {}
    for name in names:
        tiers.setdefault(below[name].bit_count(), []).append(name)
    ordered = [tuple(tiers[size]) for size in sorted(tiers, reverse=True)]
    lower = 0
    for tier in reversed(ordered):
        if any(below[name] != lower for name in tier):
            return None
        lower |= functools.reduce(operator.or_, (bits[name] for name in tier))
    return tuple(ordered)


def _answers(tiers: Tiers, texts: dict[str, str]) -> tuple[Answer, ...]:
    tied = any(len(tier) > 1 for tier in tiers)
    step = (BEST_SCORE - WORST_SCORE) / max(len(tiers) - 1, 1)
    return tuple(
        Answer(texts[name], BEST_SCORE - rank * step if tied else None)
        for rank, tier in enumerate(tiers)
        for name in tier
    )
