"""What closes an answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.generation.options import Decoding


@pytest.mark.parametrize("stop_ids", [(), (7,), (7, 3), (2,)])
def test_the_end_and_each_stop_token_close_an_answer_on_host_and_device(stop_ids: tuple[int, ...]) -> None:
    decoding = Decoding(max_new_tokens=4, end_id=2, verdict_ids=((10,), (11,)), stop_ids=stop_ids)
    ids = np.random.default_rng(0).integers(0, 12, (3, 5, 4))
    expected = np.isin(ids, [2, *stop_ids])
    np.testing.assert_array_equal(decoding.closes(ids), expected)
    np.testing.assert_array_equal(jax.jit(decoding.closes)(jnp.asarray(ids)), expected)


def test_options_are_part_of_a_program() -> None:
    """They are told apart by value, so that a change compiles anew and the same does not."""
    one, same, other = (Decoding(4, 2, ((10,), (11,)), map_places=weight) for weight in (0.0, 0.0, 1.0))
    assert hash(one) == hash(same) and one == same != other
