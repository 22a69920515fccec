"""Random queries, keys and values over random trees, and what an attention makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Owners = tuple[jax.Array, jax.Array, jax.Array]
"""Mask, question and answer of each token of a batch of packed trees."""


def random_owners(*rows: list[tuple[int, int]], length: int) -> Owners:
    """Trees of the given questions and answers, token by token, one a row, and padding behind."""
    found = np.full((len(rows), length, 2), -1, np.int32)
    real = np.zeros((len(rows), length), bool)
    for row, owners in enumerate(rows):
        found[row, : len(owners)] = np.reshape(owners, (-1, 2))
        real[row, : len(owners)] = True
    return jnp.asarray(real), jnp.asarray(found[..., 0]), jnp.asarray(found[..., 1])


def random_row(
    seed: int, *, questions: int, answers: int, prefix: int, question: int, answer: int
) -> list[tuple[int, int]]:
    """Question and answer of each token of a tree whose parts have up to these lengths, at least half of them."""
    rng = np.random.default_rng(seed)
    owners = [(-1, -1)] * prefix
    for q in range(questions):
        owners += [(q, -1)] * int(rng.integers(question // 2, question))
        for a in range(answers):
            owners += [(q, q * answers + a)] * int(rng.integers(answer // 2, answer))
    return owners


Heads = tuple[jax.Array, jax.Array, jax.Array]
"""Queries, keys and values."""


def random_heads(real: jax.Array, heads: tuple[int, int], width: int, dtype: Any) -> Heads:
    """Queries of the first number of heads, keys and values of the second."""
    rng = np.random.default_rng(7)
    rows, length = real.shape

    def drawn(num_heads: int) -> jax.Array:
        return jnp.asarray(2.0 * rng.standard_normal((rows, length, num_heads, width)), dtype)

    return drawn(heads[0]), drawn(heads[1]), drawn(heads[1])


def real_weights(real: jax.Array, queries: jax.Array) -> jax.Array:
    """Random weights of outputs, 0 at padding."""
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(queries.shape), queries.dtype)
    return weights * real[..., None, None]


def gradients(
    of: Callable[..., jax.Array], given: Heads, weights: jax.Array, *rest: Any
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The weighted sum of an attention's outputs, and its gradient by queries, keys and values."""

    def summed(given: Heads) -> jax.Array:
        return jnp.sum(of(*given, *rest) * weights)

    value, gradient = jax.jit(jax.value_and_grad(summed))(given)
    return value, tuple(gradient)
