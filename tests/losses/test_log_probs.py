"""Log-probabilities of answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.losses.log_probs import answer_logps, answer_token_logps, chunked_token_logps, token_logps


def test_token_logps_are_those_of_a_float64_softmax() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 20.0, (3, 4, 17))
    targets = rng.integers(0, 17, (3, 4))
    shifted = logits - logits.max(axis=-1, keepdims=True)
    expected = np.log(np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True))
    expected = np.take_along_axis(expected, targets[..., None], axis=-1)[..., 0]
    found = token_logps(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.all(np.asarray(found) <= 0.0)


def hidden_and_targets(seed: int, dtype: type = np.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.normal(size=(2, 30, 8)).astype(dtype), rng.normal(size=(8, 23)).astype(dtype)
    return jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(rng.integers(0, 23, (2, 30)))


@pytest.mark.parametrize("chunk_logits", [1, 23 * 4, 23 * 7, 23 * 30, 1 << 25])
def test_chunks_give_what_all_logits_at_once_give_gradients_too(chunk_logits: int) -> None:
    hidden, kernel, targets = hidden_and_targets(3)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=targets.shape), jnp.float32)

    def chunked(hidden: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logps, is_top = chunked_token_logps(
            hidden, targets, lambda h: h @ kernel, vocab_size=23, chunk_logits=chunk_logits
        )
        return jnp.sum(weights * logps), (logps, is_top)

    def whole(hidden: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = hidden @ kernel
        logps = token_logps(logits, targets)
        return jnp.sum(weights * logps), (logps, jnp.argmax(logits, axis=-1) == targets)

    found, expected = (jax.grad(of, argnums=(0, 1), has_aux=True)(hidden, kernel) for of in (chunked, whole))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5), found, expected)


@pytest.mark.parametrize("target_slots", [0, 19, 25])
@pytest.mark.parametrize("chunk_logits", [23 * 4, 1 << 25])
def test_real_answer_tokens_are_scored_whatever_room_there_is(target_slots: int, chunk_logits: int) -> None:
    rng = np.random.default_rng(6)
    hidden, kernel = rng.normal(size=(2, 9, 8)).astype(np.float32), rng.normal(size=(8, 23)).astype(np.float32)
    sources, targets = rng.integers(0, 9, (2, 3, 2, 5)), rng.integers(0, 23, (2, 3, 2, 5))
    mask = np.zeros((2, 30), bool)
    mask[0, rng.permutation(30)[:19]] = True  # as many as the least room
    mask[1, rng.permutation(30)[:7]] = True
    mask = mask.reshape(sources.shape)
    weights = rng.normal(size=sources.shape).astype(np.float32)

    def found(hidden: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        each, is_top = answer_token_logps(
            hidden,
            jnp.asarray(sources),
            jnp.asarray(targets),
            jnp.asarray(mask),
            lambda states: states @ kernel,
            vocab_size=23,
            target_slots=target_slots,
            chunk_logits=chunk_logits,
        )
        return jnp.sum(weights * each), (each, is_top)

    def expected(hidden: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = hidden[np.arange(2)[:, None, None, None], sources] @ kernel
        each = jnp.where(mask, token_logps(logits, jnp.asarray(targets)), 0.0)
        top = jnp.asarray(mask) & (jnp.argmax(logits, axis=-1) == jnp.asarray(targets))
        return jnp.sum(weights * each), (each, top)

    given = jnp.asarray(hidden), jnp.asarray(kernel)
    ours, theirs = (jax.grad(of, argnums=(0, 1), has_aux=True)(*given) for of in (found, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_backward_pass_keeps_no_array_of_tokens_times_vocabulary() -> None:
    hidden, kernel, targets = hidden_and_targets(5)

    def loss(hidden: jax.Array, chunk_logits: int) -> jax.Array:
        return jnp.sum(
            chunked_token_logps(hidden, targets, lambda h: h @ kernel, vocab_size=23, chunk_logits=chunk_logits)[0]
        )

    def largest(chunk_logits: int) -> int:
        _, backward = jax.vjp(lambda hidden: loss(hidden, chunk_logits), hidden)
        return max(np.size(kept) for kept in jax.tree.leaves(backward))

    assert largest(1 << 25) >= 2 * 30 * 23
    assert largest(23 * 4) <= max(hidden.size * 32 // 30, kernel.size)


def test_bfloat16_logits_are_scored_in_float32() -> None:
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(5, 400)), jnp.bfloat16)
    targets = jnp.arange(5)
    exact = token_logps(logits.astype(jnp.float32), targets)
    np.testing.assert_array_equal(token_logps(logits, targets), exact)


def test_answers_sum_their_real_tokens_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    logps = -rng.random((2, 3, 4, 6)).astype(np.float32)
    mask = rng.random(logps.shape) < 0.6
    mask[0, 0, 0] = False
    expected = np.array(
        [
            values[keep].sum(dtype=np.float64)
            for values, keep in zip(logps.reshape(-1, 6), mask.reshape(-1, 6), strict=True)
        ]
    )
    logps[~mask] = -np.inf  # what padding gives may be anything
    found = answer_logps(jnp.asarray(logps), jnp.asarray(mask))
    np.testing.assert_allclose(np.asarray(found).reshape(-1), expected, rtol=1e-6)
    assert found[0, 0, 0] == 0.0


def test_padding_has_no_gradient_even_where_it_is_infinite() -> None:
    logps, mask = jnp.array([-1.0, -jnp.inf, -2.0]), jnp.array([True, False, True])
    gradient = jax.grad(lambda values: answer_logps(values, mask))(logps)
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 1.0])


def test_sums_over_two_thousand_bfloat16_tokens_keep_the_error_of_float32() -> None:
    """Logits come in bfloat16; their sum over a long answer must not be added up in it."""
    rng = np.random.default_rng(7)
    logits = jnp.asarray(rng.normal(0.0, 3.0, (2, 2000, 96)), jnp.bfloat16)
    targets = rng.integers(0, 96, (2, 2000))
    exact = np.asarray(logits, np.float64)  # what the bfloat16 values are
    each = np.take_along_axis(exact, targets[..., None], axis=-1)[..., 0] - np.log(np.exp(exact).sum(axis=-1))
    found = answer_logps(token_logps(logits, jnp.asarray(targets)), jnp.ones((2, 2000), bool))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, each.sum(axis=-1), rtol=2e-6)
    narrow = jnp.sum(token_logps(logits, jnp.asarray(targets)).astype(jnp.bfloat16), axis=-1, dtype=jnp.bfloat16)
    assert np.abs(np.asarray(narrow, np.float64) - each.sum(axis=-1)).min() > 1.0  # what a sum in bfloat16 loses
