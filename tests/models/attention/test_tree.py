"""Tree attention against the plain masked form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.batch import TreeBatch
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.tree import attend_tree, tree_layout
from sage_jax.models.sage import tree_mask
from tests.support.tiny_sage import on_device, random_batch

SIZES = {"num_questions": 3, "num_answers": 4, "length": 100}


def plain(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend(queries, keys, values, tree_mask(batch.token_mask, batch.question_index, batch.answer_index))


def blocked(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend_tree(queries, keys, values, tree_layout(batch))


def inputs(batch: TreeBatch, heads: tuple[int, int], dtype: Any) -> list[jax.Array]:
    rng = np.random.default_rng(7)
    rows, length = batch.token_ids.shape
    return [jnp.asarray(2.0 * rng.standard_normal((rows, length, n, 6)), dtype) for n in (heads[0], *heads[1:] * 2)]


@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_tree_attention_equals_masked_attention(seed: int, heads: tuple[int, int]) -> None:
    batch = on_device(random_batch(seed, rows=4, padding_rows=1, **SIZES))
    given = inputs(batch, heads, jnp.float32)
    found, expected = (np.asarray(jax.jit(of)(*given, batch)) for of in (blocked, plain))
    real = np.asarray(batch.token_mask)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert np.isfinite(found).all()


def test_gradients_equal_those_of_masked_attention_in_float64() -> None:
    with jax.enable_x64(True):
        batch = on_device(random_batch(3, rows=3, padding_rows=1, **SIZES))
        given = inputs(batch, (4, 2), jnp.float64)
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(given[0].shape))
        weights = weights * batch.token_mask[..., None, None]

        def gradient(of: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
            return jax.grad(lambda given: jnp.sum(of(*given, batch) * weights))(tuple(given))

        found, expected = gradient(blocked), gradient(plain)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_more_room_for_prefix_questions_and_answers_changes_nothing() -> None:
    batch = on_device(random_batch(5, rows=3, **SIZES))
    wider = dataclasses.replace(batch, prefix_slots=batch.prefix_slots + 9, question_slots=batch.question_slots + 5)
    queries, keys, values = inputs(batch, (4, 2), jnp.float32)
    longest = int(np.asarray(batch.target_mask).sum(axis=-1).max())
    roomy = dataclasses.replace(batch, answer_slots=longest + 3)
    assert batch.answer_slots == 0
    expected = np.asarray(blocked(queries, keys, values, batch))
    real = np.asarray(batch.token_mask)
    for each in (wider, roomy):
        np.testing.assert_allclose(np.asarray(blocked(queries, keys, values, each))[real], expected[real], atol=1e-5)


def test_no_product_is_as_large_as_the_square_of_the_sequence() -> None:
    batch = on_device(random_batch(0, rows=1, **SIZES))
    given = inputs(batch, (4, 2), jnp.float32)
    largest = {
        of: max(
            int(np.prod(out.aval.shape))
            for equation in jax.make_jaxpr(of)(*given, batch).jaxpr.eqns
            if equation.primitive.name == "dot_general"
            for out in equation.outvars
        )
        for of in (blocked, plain)
    }
    assert largest[plain] == 4 * 100 * 100
    assert largest[blocked] < largest[plain] / 2


def test_an_answer_never_moves_another_branch() -> None:
    """What a token does not see has gradient exactly zero, not merely a small weight."""
    batch = on_device(random_batch(2, rows=1, **SIZES))
    given = inputs(batch, (4, 2), jnp.float32)
    answers = np.asarray(batch.answer_index[0])
    first, last = answers[answers >= 0].min(), answers.max()
    assert first != last
    chosen = jnp.asarray(answers == first)

    def of(keys: jax.Array) -> jax.Array:
        return jnp.sum(blocked(given[0], keys, given[2], batch)[0][chosen] ** 2)

    moved = np.abs(np.asarray(jax.grad(of)(given[1]))[0]).sum(axis=(1, 2))
    assert moved[answers == first].sum() > 0 and not moved[answers == last].any()
