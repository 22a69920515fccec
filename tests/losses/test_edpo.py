"""E-DPO against a float64 numpy reference and plain DPO in torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from sage_jax.config import PreferenceConfig
from sage_jax.losses.edpo import answer_entropy, answer_surprisal, preference_terms, select_pairs, trained_groups

READINGS = ("surprisal", "entropy_term", "score")


def random_groups(seed: int, groups: int = 64, answers: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, in no order, and masks without holes; some groups have no answer, some one."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, answers + 1, groups)
    mask = np.arange(answers) < sizes[:, None]
    scores = rng.choice(np.arange(1.0, 5.5, 0.5), (groups, answers))
    return np.where(mask, scores, rng.normal(size=scores.shape)).astype(np.float32), mask


def exact_entropy(scores: np.ndarray, size: int, temperature: float, reading: str) -> np.ndarray:
    """H of one group's answers in float64."""
    real = scores[:size].astype(np.float64)
    entropy = np.zeros(len(scores))
    if size and reading == "score":
        entropy[:size] = real
    elif size:
        weights = np.exp((real - real.max()) / temperature)
        p = weights / weights.sum()
        entropy[:size] = -np.log(p) if reading == "surprisal" else -p * np.log(p)
    return entropy


def exact_hard_pair(entropy: np.ndarray, size: int) -> int | None:
    """The adjacent pair of smallest gap above 0, the first of equal ones; None without any."""
    best, chosen = np.inf, None
    for rank in range(size - 1):
        gap = abs(entropy[rank] - entropy[rank + 1])
        if 1e-9 < gap < best - 1e-9:
            best, chosen = gap, rank
    return chosen


def test_without_the_reference_ratio_the_reward_is_the_policys_own_log_probability() -> None:
    scores, mask = random_groups(seed=4)
    rng = np.random.default_rng(4)
    policy, reference = (rng.normal(-6.0, 3.0, scores.shape) for _ in range(2))
    config = PreferenceConfig(beta=0.7, eta=0.3, lambda_hard=0.4, lambda_easy=1.3, reference="none")

    def terms(reference: np.ndarray, config: PreferenceConfig) -> Any:
        logps, reference_logps, judged = (jnp.asarray(x, jnp.float32) for x in (policy, reference, scores))
        return preference_terms(logps, reference_logps, judged, jnp.asarray(mask), config=config)

    found = terms(reference, config)
    assert found.group_mask.sum() > 20
    for group, size in enumerate(mask.sum(axis=1)):
        entropy = exact_entropy(scores[group], size, config.tau, config.entropy)
        loss, rewards = 0.0, 0.7 * policy[group]
        for pair, weight in ((exact_hard_pair(entropy, size), 0.4), (0 if size > 1 else None, 1.3)):
            loser = size - 1 if weight == 1.3 else (pair or 0) + 1
            if pair is not None and (gap := abs(entropy[pair] - entropy[loser])) > 1e-9:
                loss += weight * np.log1p(np.exp(0.3 * gap - rewards[pair] + rewards[loser]))
        np.testing.assert_allclose(found.pair_loss[group], loss, rtol=2e-5, atol=1e-6)
    ratio = dataclasses.replace(config, reference="ratio")
    np.testing.assert_array_equal(found.pair_loss, terms(np.zeros_like(reference), ratio).pair_loss)
    assert np.abs(found.pair_loss - terms(reference, ratio).pair_loss).max() > 0.1


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_entropies_and_hard_selection_equal_a_float64_reference(reading: str, temperature: float) -> None:
    scores, mask = random_groups(seed=int(10 * temperature))
    entropy = answer_entropy(jnp.asarray(scores), jnp.asarray(mask), temperature=temperature, reading=reading)
    pairs = select_pairs(entropy, jnp.asarray(mask), selection="hard", temperature=1.0)
    found_some = 0
    for group, size in enumerate(mask.sum(axis=1)):
        exact = exact_entropy(scores[group], size, temperature, reading)
        np.testing.assert_allclose(entropy[group], exact, rtol=1e-5, atol=1e-6)
        chosen = exact_hard_pair(exact, size)
        expected = np.zeros(mask.shape[1] - 1)
        if chosen is not None:
            expected[chosen] = 1.0
            found_some += 1
        np.testing.assert_array_equal(pairs.adjacent_weights[group], expected, err_msg=f"{scores[group, :size]}")
        extreme = abs(exact[0] - exact[size - 1]) if size > 1 else 0.0
        assert bool(pairs.extreme_mask[group]) == (extreme > 1e-9)
        if extreme > 1e-9:
            np.testing.assert_allclose(pairs.extreme_gap[group], extreme, rtol=1e-4, atol=1e-6)
            assert int(pairs.last[group]) == size - 1
    assert found_some > 20


@pytest.mark.parametrize("reading", READINGS)
def test_soft_weights_equal_a_float64_reference(reading: str) -> None:
    scores, mask = random_groups(seed=1)
    entropy = answer_entropy(jnp.asarray(scores), jnp.asarray(mask), temperature=1.0, reading=reading)
    pairs = select_pairs(entropy, jnp.asarray(mask), selection="soft", temperature=0.4)
    for group, size in enumerate(mask.sum(axis=1)):
        exact = exact_entropy(scores[group], size, 1.0, reading)
        gaps = np.abs(np.diff(exact))
        real = (np.arange(len(gaps)) < size - 1) & (gaps > 1e-9)
        weights = np.where(real, np.exp(-gaps / 0.4), 0.0)
        expected = weights / weights.sum() if real.any() else weights
        np.testing.assert_allclose(pairs.adjacent_weights[group], expected, atol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_soft_selection_becomes_the_hard_one_as_its_temperature_goes_to_zero(reading: str) -> None:
    rng = np.random.default_rng(2)
    scores = jnp.asarray(-np.sort(-rng.uniform(1.0, 5.0, (64, 5)), axis=1), jnp.float32)  # no two gaps are equal
    mask = jnp.asarray(np.arange(5) < rng.integers(0, 6, 64)[:, None])
    entropy = answer_entropy(scores, mask, temperature=1.0, reading=reading)
    hard = select_pairs(entropy, mask, selection="hard", temperature=1.0)
    soft = select_pairs(entropy, mask, selection="soft", temperature=1e-7)
    np.testing.assert_allclose(soft.adjacent_weights, hard.adjacent_weights, atol=1e-4)


@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_of_equal_smallest_gaps_the_first_is_taken(tau: float) -> None:
    # Evenly spaced scores have equal gaps on paper; in float32 they differ in the last bits, here and there.
    steps = np.random.default_rng(3).uniform(0.1, 1.0, 64)
    scores = jnp.asarray(5.0 - steps[:, None] * np.arange(5), jnp.float32)
    mask = jnp.ones(scores.shape, bool)
    entropy = answer_entropy(scores, mask, temperature=tau, reading="surprisal")
    pairs = select_pairs(entropy, mask, selection="hard", temperature=1.0)
    np.testing.assert_array_equal(pairs.adjacent_weights, np.tile([1.0, 0.0, 0.0, 0.0], (64, 1)))


def test_the_better_judged_the_lower_the_surprisal() -> None:
    scores, mask = random_groups(seed=4)
    surprisal = np.asarray(answer_surprisal(jnp.asarray(scores), jnp.asarray(mask), temperature=0.7))
    for group, size in enumerate(mask.sum(axis=1)):
        s, h = scores[group, :size], surprisal[group, :size]
        assert np.all((s[:, None] > s) <= (h[:, None] < h))
        np.testing.assert_allclose(h[:, None] - h, -(s[:, None] - s) / 0.7, atol=1e-5)
        assert np.all((s[:, None] == s) <= (h[:, None] == h))
    assert np.all(surprisal >= 0.0) and np.all(surprisal[~mask] == 0.0)
    assert np.all(surprisal[mask.sum(axis=1) == 1] == 0.0)


def numpy_terms(
    policy: np.ndarray, reference: np.ndarray, scores: np.ndarray, size: int, config: PreferenceConfig
) -> tuple[float, float]:
    """Pair loss and BCO of one group in float64, pair by pair."""
    rewards = config.beta * (policy.astype(np.float64) - reference)[:size]
    entropy = exact_entropy(scores, size, config.tau, config.entropy)
    gaps = np.abs(np.diff(entropy))[: max(size - 1, 0)]
    if config.selection == "hard":
        chosen = exact_hard_pair(entropy, size)
        weights = [float(rank == chosen) for rank in range(len(gaps))]
    else:
        each = np.where(gaps > 1e-9, np.exp(-gaps / config.soft_temperature), 0.0)
        weights = list(each / max(each.sum(), 1e-300))
    pairs = [(rank, rank + 1, config.lambda_hard * weight) for rank, weight in enumerate(weights)]
    if size > 1 and abs(entropy[0] - entropy[size - 1]) > 1e-9:
        pairs.append((0, size - 1, config.lambda_easy))
    delta, pair_loss, bco = rewards.mean() if size else 0.0, 0.0, 0.0
    for better, worse, weight in pairs:
        margin = rewards[better] - rewards[worse] - config.eta * abs(entropy[better] - entropy[worse])
        pair_loss += weight * np.log1p(np.exp(-margin))
        bco += weight * (np.log1p(np.exp(delta - rewards[better])) + np.log1p(np.exp(rewards[worse] - delta)))
    return pair_loss, bco


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"entropy": "entropy_term", "eta": 0.7, "tau": 2.0, "lambda_hard": 0.3},
        {"entropy": "score", "selection": "soft", "soft_temperature": 0.5, "lambda_easy": 0.4},
        {"lambda_easy": 0.0, "eta": 1.5, "beta": 0.4},
    ],
)
def test_losses_equal_a_float64_reference(options: dict[str, Any]) -> None:
    config = PreferenceConfig(**options)
    scores, mask = random_groups(seed=5)
    rng = np.random.default_rng(6)
    policy, reference = (rng.normal(-20.0, 6.0, scores.shape).astype(np.float32) for _ in range(2))
    terms = preference_terms(*map(jnp.asarray, (policy, reference, scores, mask)), config=config)
    for group, size in enumerate(mask.sum(axis=1)):
        pair, bco = numpy_terms(policy[group], reference[group], scores[group], size, config)
        np.testing.assert_allclose(terms.pair_loss[group], pair, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(terms.bco_loss[group], bco, rtol=1e-4, atol=1e-5)
        assert bool(terms.group_mask[group]) == (pair > 0.0)
    np.testing.assert_array_equal(
        trained_groups(jnp.asarray(scores), jnp.asarray(mask), config=config), terms.group_mask
    )


def test_without_margin_the_extreme_pair_is_plain_dpo_in_loss_and_gradient() -> None:
    config = PreferenceConfig(beta=0.25, eta=0.0, lambda_hard=0.0, lambda_easy=1.0)
    rng = np.random.default_rng(7)
    sizes = rng.integers(2, 6, 64)
    mask = np.arange(5) < sizes[:, None]
    scores = -np.sort(-rng.uniform(1.0, 5.0, (64, 5)), axis=1).astype(np.float32)
    policy, reference = (rng.normal(-15.0, 8.0, (64, 5)).astype(np.float32) for _ in range(2))

    def loss(values: jax.Array) -> jax.Array:
        return jnp.sum(preference_terms(values, *map(jnp.asarray, (reference, scores, mask)), config=config).pair_loss)

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(policy))
    peer, rows, last = torch.tensor(policy, requires_grad=True), torch.arange(64), torch.tensor(sizes - 1)
    # Rafailov et al. 2023, equation 7, in the form that trainers give it: ratios of policy and of reference apart.
    chosen_ratio = peer[:, 0] - peer[rows, last]
    reference_ratio = torch.tensor(reference)[:, 0] - torch.tensor(reference)[rows, last]
    expected = -torch.nn.functional.logsigmoid(0.25 * (chosen_ratio - reference_ratio)).sum()
    expected.backward()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    assert peer.grad is not None
    np.testing.assert_allclose(gradient, peer.grad.numpy(), atol=1e-5)


def test_groups_of_fewer_than_two_different_answers_train_nothing() -> None:
    scores = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [4.0, 4.0, 4.0]])
    mask = jnp.array([[False] * 3, [True, False, False], [True] * 3])
    logps = jnp.array([[-5.0, -1.0, -9.0]] * 3)
    terms = preference_terms(logps, logps - 1.0, scores, mask, config=PreferenceConfig(bco_weight=1.0))
    for values in (terms.pair_loss, terms.bco_loss):
        np.testing.assert_array_equal(values, 0.0)
    assert not terms.group_mask.any()


@pytest.mark.parametrize("selection", ["hard", "soft"])
@pytest.mark.parametrize("reading", READINGS)
def test_gradients_are_finite_on_empty_masks_and_zero_at_masked_answers(reading: str, selection: str) -> None:
    scores, mask = random_groups(seed=8)
    config = dataclasses.replace(PreferenceConfig(), entropy=reading, selection=selection)

    def loss(policy: jax.Array, scores: jax.Array) -> jax.Array:
        terms = preference_terms(policy, jnp.zeros_like(policy), scores, jnp.asarray(mask), config=config)
        return jnp.sum(terms.pair_loss + terms.bco_loss)

    policy = jnp.asarray(np.random.default_rng(9).normal(size=scores.shape), jnp.float32)
    with jax.debug_nans(True):  # not even computed where a mask would hide them
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(policy, jnp.asarray(scores))
        answer_surprisal(jnp.asarray(scores), jnp.asarray(mask), temperature=1.0)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.all(np.asarray(gradient)[~mask] == 0.0)
