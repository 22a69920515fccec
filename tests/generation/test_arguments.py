"""What a responder's programs are given: the same shapes whatever is asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.generation.arguments import begun_of, draws_of, lean
from tests.support.tiny_sage import batch_of, random_tree


def test_tiles_of_references_are_left_out_where_no_row_shows_one() -> None:
    rng = np.random.default_rng(0)
    batch = batch_of([random_tree(rng, num_questions=1, num_answers=1)], rng, num_questions=1)
    hidden = dataclasses.replace(batch, reference_tile_mask=np.zeros_like(batch.reference_tile_mask))
    assert lean(hidden).reference_tiles.shape[1] == 0
    shown = dataclasses.replace(batch, reference_tile_mask=np.ones_like(batch.reference_tile_mask))
    assert lean(shown) is shown


def test_rows_without_seeds_draw_alike() -> None:
    np.testing.assert_array_equal(draws_of(None, np.zeros((3, 5))), [0, 0, 0])
    np.testing.assert_array_equal(draws_of(np.asarray([4, 5], np.int64), np.zeros((2, 1))), [4, 5])


def test_beginnings_fill_up_to_the_longest_answer() -> None:
    begun = np.asarray([[[7, 8]], [[9, -1]]], np.int32)
    found = begun_of(begun, (2, 3), 4)
    assert found.shape == (2, 3, 4) and found.dtype == np.int32
    np.testing.assert_array_equal(found[:, 0], [[7, 8, -1, -1], [9, -1, -1, -1]])
    assert (found[:, 1:] == -1).all() and (begun_of(None, (2, 3), 4) == -1).all()


@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 1, 2), (2, 4, 2)])
def test_beginnings_that_leave_nothing_to_say_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give all rows"):
        begun_of(np.zeros(shape, np.int32), (2, 3), 4)
