"""What every other test builds on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from sage_jax.losses.edpo import answer_surprisal


def test_tests_see_eight_devices() -> None:
    assert jax.device_count() == 8


def test_a_wrong_shape_is_an_error_in_tests() -> None:
    """Without the import hook, a mask of the wrong number of rows would be broadcast in silence."""
    answer_surprisal(jnp.ones((2, 4)), jnp.ones((2, 4), bool), temperature=1.0)
    with pytest.raises(TypeCheckError):
        answer_surprisal(jnp.ones((2, 4)), jnp.ones((1, 4), bool), temperature=1.0)
