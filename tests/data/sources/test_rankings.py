"""Pairs of answers become rankings where together they are one order; no order is made up."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from sage_jax.data.records import Answer
from sage_jax.data.sources import rankings as module
from sage_jax.data.sources.rankings import pairs_of, rankings
from sage_jax.data.trees import encode


def texts(found: list[tuple[Answer, ...]]) -> list[str]:
    return ["".join(answer.text for answer in each) for each in found]


def scores(found: list[tuple[Answer, ...]]) -> list[list[float | None]]:
    return [[answer.score for answer in each] for each in found]


def test_a_chain_is_one_ranking_whatever_the_order_of_its_rows() -> None:
    for rows in itertools.permutations([("a", "b"), ("b", "c"), ("c", "d")]):
        assert texts(rankings(rows)) == ["abcd"]
        assert scores(rankings(rows)) == [[None] * 4], "ranks alone, as in AD-PL"


def test_answers_that_nobody_ordered_share_a_score() -> None:
    chosen, rejected = rankings([("a", "b"), ("a", "c")]), rankings([("a", "c"), ("b", "c")])
    assert texts(chosen) == ["abc"] and scores(chosen) == [[5.0, 1.0, 1.0]]
    assert texts(rejected) == ["abc"] and scores(rejected) == [[5.0, 5.0, 1.0]]
    between = rankings([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    assert texts(between) == ["abcd"] and scores(between) == [[5.0, 3.0, 3.0, 1.0]]


def test_contradictions_and_gaps_stay_pairs() -> None:
    assert texts(rankings([("a", "b"), ("b", "a")])) == ["ab", "ba"]
    assert texts(rankings([("a", "b"), ("b", "c"), ("c", "a")])) == ["ab", "bc", "ca"]
    assert sorted(texts(rankings([("a", "b"), ("a", "c"), ("b", "d")]))) == ["ab", "ac", "bd"]
    assert texts(rankings([("a", "b"), ("c", "d")])) == ["ab", "cd"], "rows that share nothing"


def test_repeated_rows_and_spellings_add_nothing() -> None:
    assert texts(rankings([("a b", "c"), ("A  b", "c"), ("a b", "c")])) == ["a bc"]


def test_an_answer_alone_is_a_ranking_of_its_own_unless_it_is_the_best_of_one() -> None:
    assert texts(rankings([("a", "b"), ("a",)])) == ["ab"] and texts(rankings([("a",), ("a",)])) == ["a"]
    assert texts(rankings([("c",), ("a", "b")])) == ["c", "ab"]
    assert texts(rankings([("a", "b"), ("b",)])) == ["ab", "b"], "called bad by one row and good by another"


def test_thousands_of_pairs_take_no_time() -> None:
    start = time.perf_counter()
    chain = [(str(number), str(number + 1)) for number in range(2000)]
    assert len(rankings(chain)[0]) == 2001
    assert len(rankings([(f"a{number}", f"b{number}") for number in range(20_000)])) == 20_000
    assert time.perf_counter() - start < 10, "a second on a machine without other work"


def test_scores_are_those_of_ranks_without_scores() -> None:
    assert (module.BEST_SCORE, module.WORST_SCORE) == (encode.BEST_SCORE, encode.WORST_SCORE)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")).filter(lambda pair: pair[0] != pair[1])))
def test_every_preference_is_kept_and_none_is_made_up(rows: list[tuple[str, str]]) -> None:
    found = {pair for answers in rankings(rows) for pair in pairs_of(answers, only_extreme=False)}
    closure = set(rows)
    while more := {(a, d) for a, b in closure for c, d in closure if b == c} - closure:
        closure |= more
    assert set(rows) <= found <= closure


def test_pairs_of_a_ranking_lead_back_to_it() -> None:
    ranked = tuple(map(Answer, "abcd"))
    assert pairs_of(ranked, only_extreme=True) == [("a", "d")]
    every = pairs_of(ranked, only_extreme=False)
    assert len(every) == 6 and rankings(every) == [ranked]
    tied = (Answer("a", 5.0), Answer("b", 2.0), Answer("c", 2.0))
    assert pairs_of(tied, only_extreme=False) == [("a", "b"), ("a", "c")]
    assert pairs_of(tied[1:], only_extreme=True) == [] == pairs_of(tied[:1], only_extreme=True)
