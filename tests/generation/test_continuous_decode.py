"""Rows that hold images at their own tokens: free ones, taken ones, and those that images are put into."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.generation.continuous_decode import (
    DecodeRows,
    decode_rows,
    free_rows,
    prefill_rows,
    put_rows,
    ring_slots,
    widen_rows,
)
from sage_jax.generation.options import Decoding
from sage_jax.models.sage import Sage
from sage_jax.parameters import merge
from tests.support.tiny_sage import on_device, random_batch, random_params, structure

DECODING = Decoding(max_new_tokens=5, end_id=2, verdict_ids=((10,), (12,)))
ROWS, QUESTIONS = 4, 2


@pytest.fixture(scope="module")
def model() -> Sage:
    graphdef, shapes = structure()
    return merge(graphdef, random_params(shapes))


@pytest.fixture(scope="module")
def group(model: Sage) -> DecodeRows:
    batch = on_device(random_batch(5, rows=2))
    return jax.jit(lambda model: prefill_rows(model, batch, jnp.arange(2), DECODING)[1])(model)


@pytest.fixture(scope="module")
def free(model: Sage, group: DecodeRows) -> DecodeRows:
    return free_rows(model, group, ROWS, DECODING)


def test_the_ring_has_room_for_every_token_but_the_first() -> None:
    assert ring_slots(3, DECODING) == 12 and ring_slots(3, Decoding(1, 2, ((10,), (12,)))) == 3


def test_free_rows_have_ended_and_see_nothing(free: DecodeRows, group: DecodeRows) -> None:
    assert np.asarray(free.ended).all() and not np.asarray(free.state.visible).any()
    assert free.num_slots == ring_slots(QUESTIONS, DECODING) + group.num_slots
    rows, states = decode_rows_of(free, ROWS)
    assert int(states.steps) == 0 and np.asarray(states.free).all() and rows.num_slots == free.num_slots


def decode_rows_of(rows: DecodeRows, wanted: int) -> tuple:
    graphdef, shapes = structure()
    model = merge(graphdef, random_params(shapes))
    return jax.jit(lambda model: decode_rows(model, rows, jnp.asarray(wanted), DECODING))(model)


def test_images_take_the_rows_that_they_are_put_into_and_no_others(free: DecodeRows, group: DecodeRows) -> None:
    taken = put_rows(free, group, jnp.asarray([2, ROWS]), DECODING)  # the second image is left out
    for name in ("token", "step", "seeds", "token_ids", "ended"):
        values, before, of = (np.asarray(getattr(rows, name)) for rows in (taken, free, group))
        np.testing.assert_array_equal(values[2], of[0], err_msg=name)
        np.testing.assert_array_equal(np.delete(values, 2, axis=0), np.delete(before, 2, axis=0), err_msg=name)
    ring = ring_slots(QUESTIONS, DECODING)
    np.testing.assert_array_equal(taken.state.visible[2, :, ring:], group.state.visible[0])
    assert not np.asarray(taken.state.visible[2, :, :ring]).any()
    for new, old in zip(taken.state.cache.keys, group.state.cache.keys, strict=True):
        np.testing.assert_array_equal(new[2, ..., ring:], old[0])


def test_answers_do_not_depend_on_the_row_or_on_what_stands_beside(free: DecodeRows, group: DecodeRows) -> None:
    found = []
    for into in ([0, 1], [3, 0], [1, ROWS]):
        rows, states = decode_rows_of(put_rows(free, group, jnp.asarray(into), DECODING), ROWS)
        assert np.asarray(states.free).all() and 0 < int(states.steps) < DECODING.max_new_tokens
        found.append(np.asarray(states.token_ids)[into[0]])
        assert np.asarray(rows.ended).all()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_longer_prompts_find_room_behind(free: DecodeRows) -> None:
    wider = widen_rows(free, free.num_slots + 6)
    assert wider.num_slots == free.num_slots + 6
    np.testing.assert_array_equal(wider.state.visible[..., : free.num_slots], free.state.visible)
