"""Choice of tokens against transformers' own processors of logits, and draws against their probabilities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sage_jax.generation.sampling import Sampling, choose, draw_keys, likeliest, penalise_repetition, warp

SIZE = 60


def peer(how: Sampling) -> Any:
    """transformers' processors of the same options, in the order that its `generate` puts them in."""
    found = LogitsProcessorList()
    if how.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    if not how.is_greedy:
        found.append(TemperatureLogitsWarper(how.temperature))
        if how.top_k:
            found.append(TopKLogitsWarper(how.top_k))
        if how.top_p < 1.0:
            found.append(TopPLogitsWarper(how.top_p))
    return found


def random_logits(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of 2 x 3 questions, the ids of their conversations, and the ids as a mask."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, (2, 3, SIZE)).astype(np.float32)
    ids = rng.integers(0, SIZE, (2, 3, 25))
    used = np.zeros(logits.shape, bool)
    np.put_along_axis(used, ids, True, axis=-1)
    return np.round(logits) if ties else logits, ids, used


HOWS = [
    Sampling(0.7),
    Sampling(1.0, top_k=5),
    Sampling(1.3, top_p=0.8),
    Sampling(0.9, top_k=20, top_p=0.6, repetition_penalty=1.3),
    Sampling(1.0, top_p=1e-4, repetition_penalty=0.7),
    Sampling(1.0, top_k=SIZE + 9),
]


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_the_distribution_is_that_of_transformers(how: Sampling, ties: bool) -> None:
    removed = 0
    for seed in range(5):
        logits, ids, used = random_logits(seed, ties=ties)
        flat = torch.tensor(logits.reshape(6, SIZE))
        expected = peer(how)(torch.tensor(ids.reshape(6, -1)), flat).reshape(2, 3, SIZE)
        penalised = penalise_repetition(jnp.asarray(logits), jnp.asarray(used), how.repetition_penalty)
        expected, found = expected.numpy(), np.asarray(warp(penalised, how))
        if ties and how.top_p < 1.0:  # which of equally likely tokens stay is open
            expected, found = np.sort(expected, axis=-1), np.sort(found, axis=-1)
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
        np.testing.assert_allclose(jax.nn.softmax(found), softmax(expected.astype(np.float64), axis=-1), atol=1e-6)
        removed += int(np.isneginf(found).sum())
    assert (removed > 0) == (how.top_p < 1.0 or 0 < how.top_k < SIZE)


def test_greedy_choice_sees_the_penalty_and_nothing_else() -> None:
    logits, ids, used = random_logits(3, ties=False)
    plain = choose(jnp.asarray(logits), None, draw_keys(0, jnp.arange(2), 3, jnp.array(0)), jnp.array(0), Sampling())
    np.testing.assert_array_equal(plain, logits.argmax(-1))
    how = Sampling(repetition_penalty=2.5)
    expected = peer(how)(torch.tensor(ids.reshape(6, -1)), torch.tensor(logits.reshape(6, SIZE))).argmax(-1)
    keys = draw_keys(0, jnp.arange(2), 3, jnp.array(0))
    found = np.asarray(choose(jnp.asarray(logits), jnp.asarray(used), keys, jnp.array(0), how))
    np.testing.assert_array_equal(found.reshape(-1), expected)
    assert (found != plain).any()


@pytest.mark.parametrize("over", ["rows", "questions", "turns", "steps"])
def test_draws_have_the_probabilities_of_the_distribution(over: str) -> None:
    """Chi-square over draws that differ in one thing alone: whatever tells draws apart makes them independent."""
    how, number = Sampling(1.1, top_k=12, top_p=0.9, seed=3), 4096
    logits = jnp.asarray(np.random.default_rng(4).normal(0.0, 1.5, SIZE), jnp.float32)

    @jax.jit
    def draws(many: jax.Array) -> jax.Array:
        zero, one = jnp.zeros((), int), jnp.array([7])
        if over == "rows":
            return choose(jnp.tile(logits, (number, 1, 1)), None, draw_keys(how.seed, many, 1, zero), zero, how)
        if over == "questions":
            return choose(jnp.tile(logits, (1, number, 1)), None, draw_keys(how.seed, one, number, zero), zero, how)

        def of(at: jax.Array) -> jax.Array:
            turn, step = (at, zero) if over == "turns" else (zero, at)
            return choose(logits[None, None], None, draw_keys(how.seed, one, 1, turn), step, how)

        return jax.vmap(of)(many)

    found = draws(jnp.arange(number))
    counts = np.bincount(np.asarray(found).ravel(), minlength=SIZE)
    wanted = np.asarray(jax.nn.softmax(warp(logits, how)), np.float64)
    assert counts.sum() == number and not counts[wanted == 0].any()
    possible = wanted > 0
    expected = number * wanted[possible] / wanted[possible].sum()
    assert possible.sum() > 5 and expected.min() > 5
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


def test_the_likeliest_token_is_the_first_of_the_largest_logits() -> None:
    logits = random_logits(3, ties=True)[0]
    logits[0, 0] = -np.inf
    logits[0, 1, :4] = np.inf, 1.0, np.inf, -np.inf
    assert (logits == logits.max(axis=-1, keepdims=True)).sum(axis=-1).max() > 1
    found = likeliest(jnp.asarray(logits))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, logits.argmax(axis=-1))
    logits[1, 2, 7] = np.nan
    assert likeliest(jnp.asarray(logits))[1, 2] == 0


def test_a_draw_is_the_same_in_any_batch() -> None:
    how = Sampling(1.0, seed=1)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, SIZE)), jnp.float32)
    rows, turn, step = jnp.array([5, 6, 7]), jnp.array(1), jnp.array(4)
    whole = choose(logits, None, draw_keys(1, rows, 2, turn), step, how)
    alone = choose(logits[1:2], None, draw_keys(1, rows[1:2], 2, turn), step, how)
    np.testing.assert_array_equal(alone[0], whole[1])
    keys = [jax.random.key_data(draw_keys(seed, rows, 2, turn)).tolist() for seed in (1, 2)]
    assert keys[0] != keys[1]
