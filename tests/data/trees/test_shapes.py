"""Static shapes of batches: chosen with the fewest padded tokens, and holding whatever a stage can draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sage_jax.config import TextConfig
from sage_jax.data.trees.encode import QuestionTokens, RecordTokens, TreeError
from sage_jax.data.trees.shapes import (
    BatchSize,
    TreeShape,
    bucket_for,
    choose_shape,
    choose_shapes,
    enclosing,
    least_lengths,
    most_needed,
    needed_shape,
)


def tokens_of(prefix: int, *questions: tuple[int, ...], name: str = "r") -> RecordTokens:
    """A record of so many prefix tokens, and for each question its tokens and those of each answer."""
    ids = [np.zeros(prefix, np.int32)]
    asked = tuple(
        QuestionTokens(np.zeros(first, np.int32), tuple(np.zeros(size, np.int32) for size in answers), ())
        for first, *answers in questions
    )
    none = np.zeros((0, 0), np.int32)
    return RecordTokens(name, ids[0], np.ones(prefix, np.bool_), none, none.astype(np.bool_), asked, none, False)


def padded_tokens(lengths: list[int], chosen: tuple[int, ...]) -> int:
    return sum(min(size for size in chosen if size >= length) for length in lengths)


@pytest.mark.parametrize("num_lengths", [1, 2, 3, 4])
def test_no_other_lengths_pad_with_fewer_tokens(num_lengths: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        lengths = (8 * rng.integers(1, 9, size=int(rng.integers(1, 12)))).tolist()
        longest = max(lengths) + 8 * int(rng.integers(0, 3))
        found = least_lengths(lengths, longest, num_lengths)
        assert found == tuple(sorted(set(found))) and found[-1] == longest and len(found) <= num_lengths
        candidates = sorted({*lengths} - {longest})
        choices = [
            (*shorter, longest)
            for count in range(num_lengths)
            for shorter in itertools.combinations(candidates, min(count, len(candidates)))
        ]
        assert padded_tokens(lengths, found) == min(padded_tokens(lengths, choice) for choice in choices)


def test_a_length_that_saves_nothing_is_not_chosen() -> None:
    assert least_lengths([64, 64], 64, 3) == (64,)
    assert least_lengths([], 80, 2) == (80,)


def test_chosen_shapes_hold_the_measured_batches_and_the_largest_tree_and_tell_their_padding() -> None:
    needs = [TreeShape(90, 60, 9, 7, 20), TreeShape(93, 62, 10, 5, 18), TreeShape(140, 63, 12, 9, 30)]
    largest = TreeShape(170, 64, 33, 17, 50)
    found = choose_shapes([BatchSize(each, 4, 4 * each.length - 10) for each in needs], largest, 2)
    assert found.shapes == (TreeShape(96, 64, 16, 8, 24), TreeShape(176, 64, 40, 24, 56))
    real, padded = 4 * (90 + 93 + 140) - 30, 4 * (96 + 96 + 176)
    assert found.padding == pytest.approx(1 - real / padded)
    assert "96 (64/16/8/24), 176 (64/40/24/56)" in str(found) and "14.3%" in str(found)


def test_what_a_record_needs_at_most_holds_every_draw_of_its_questions() -> None:
    tokens = tokens_of(30, (9, 4, 11), (20,), (3, 12, 12), (8, 1))
    for drawn in range(1, 5):
        most = most_needed(tokens, drawn)
        draws = [needed_shape(tokens, asked) for asked in itertools.combinations(range(4), drawn)]
        assert all(most.holds(each) for each in draws)
        assert most.length == max(each.length for each in draws)
    assert most_needed(tokens, 0) == needed_shape(tokens, range(4)) == TreeShape(30 + 80, 30, 20, 12, 40)


def test_a_batch_takes_the_first_shape_that_holds_all_of_its_parts() -> None:
    shapes = (TreeShape(64, 40, 16, 16, 24), TreeShape(128, 64, 32, 32, 64))
    short, wide = tokens_of(32, (10, 12)), tokens_of(32, (20, 2), name="wide")
    assert choose_shape([short], [(0,)], TextConfig(), shapes) == shapes[0]
    assert choose_shape([short, wide], [(0,), (0,)], TextConfig(), shapes) == shapes[1]  # for its question alone
    with pytest.raises(TreeError, match=r"record wide: .*54 \(32/20/12/12\).*the data has changed"):
        choose_shape([short, wide], [(0,), (0,)], TextConfig(), shapes[:1])


def test_without_buckets_lengths_come_in_few_steps_and_have_no_end() -> None:
    text = TextConfig()
    lengths = [bucket_for(length, text) for length in range(1, 5000)]
    for length, bucket in zip(range(1, 5000), lengths, strict=True):
        assert bucket is not None and length <= bucket < max(1.25 * length, length + 8)
    assert len({bucket for bucket in lengths if bucket and bucket > 128}) <= 4 * 6
    assert bucket_for(10**6, text) is not None and bucket_for(513, TextConfig(buckets=(512,))) is None


def test_enclosing_is_the_least_shape_of_all() -> None:
    assert enclosing([TreeShape(5, 1, 7, 0, 2), TreeShape(4, 3, 2, 1, 9)]) == TreeShape(5, 3, 7, 1, 9)
