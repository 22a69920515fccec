"""Entropy-aware direct preference optimisation over ranked answers (SAGE, section 3.3)."""

from __future__ import annotations

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float
from sage_jax.config import PreferenceConfig

GAP_ROUNDING: Final = 1e-5
"""Gaps that differ by no more are equal: several times float32's error, far less than a step of any judge's scores."""


def answer_surprisal(
    scores: Float[Array, "B N"], answer_mask: Bool[Array, "B N"], *, temperature: float
) -> Float[Array, "B N"]:
    """Surprisal of each ranked answer under its group's score distribution, in nats.

    The better an answer is judged, the lower its surprisal; equal scores give equal surprisal.
    Masked answers take no probability and get 0. A group of one answer gets 0.

    Args:
      scores: Judge scores, 1 (worst) to 5 (best).
      answer_mask: True where the group has an answer.
      temperature: Score units per nat; larger flattens the distribution.

    Returns:
      float32, >= 0. Differences inside a group equal score differences / temperature.
    """
    logits = jnp.where(answer_mask, scores.astype(jnp.float32) / temperature, -jnp.inf)
    # A group without answers would compute nan: hidden by the masks here, yet an error under jax_debug_nans.
    logits = jnp.where(answer_mask.any(axis=-1, keepdims=True), logits, 0.0)
    return jnp.where(answer_mask, -jax.nn.log_softmax(logits, axis=-1), 0.0)


def answer_entropy(
    scores: Float[Array, "B N"], answer_mask: Bool[Array, "B N"], *, temperature: float, reading: str
) -> Float[Array, "B N"]:
    """H of each answer, by one of the readings of the paper's entropy.

        surprisal     -log p_i, in nats
        entropy_term  -p_i log p_i, in nats
        score         the judge score itself, which `temperature` does not scale

    Masked answers get 0.
    """
    if reading == "score":
        return jnp.where(answer_mask, scores.astype(jnp.float32), 0.0)
    surprisal = answer_surprisal(scores, answer_mask, temperature=temperature)
    if reading == "surprisal":
        return surprisal
    return jnp.where(answer_mask, jnp.exp(-surprisal) * surprisal, 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Weights and gaps of the pairs that each group trains.

    Attributes:
      adjacent_weights: Of the pairs (i, i + 1); they add up to 1, or to 0 in a group without such a pair.
      adjacent_gaps: |H_i - H_{i+1}|.
      extreme_mask: True where the group has a pair (first, last) of different H.
      extreme_gap: |H_first - H_last|.
      last: Rank of the last answer.
    """

    adjacent_weights: Float[Array, "B K"]
    adjacent_gaps: Float[Array, "B K"]
    extreme_mask: Bool[Array, " B"]
    extreme_gap: Float[Array, " B"]
    last: jax.Array


def select_pairs(
    entropy: Float[Array, "B N"], answer_mask: Bool[Array, "B N"], *, selection: str, temperature: float
) -> Pairs:
    """The adjacent pair of smallest gap (`hard`) or all by softmax(-gap / temperature) (`soft`), and the extreme pair.

    Answers stand in rank order without holes. Pairs of gap 0 are ties and left out; of equal smallest gaps the first
    pair is taken. With temperature -> 0 the soft weights become the hard choice, spread over equal smallest gaps.
    """
    gaps = jnp.abs(entropy[:, :-1] - entropy[:, 1:])
    real = answer_mask[:, :-1] & answer_mask[:, 1:] & (gaps > 0)
    cost = jnp.where(real, gaps, jnp.inf)
    if selection == "hard":
        # Gaps that are equal on paper differ by rounding; without a tolerance that, not the rank, would choose.
        first = jnp.argmax(cost <= jnp.min(cost, axis=-1, keepdims=True) + GAP_ROUNDING, axis=-1)
        weights = jax.nn.one_hot(first, cost.shape[-1], dtype=jnp.float32)
    else:
        logits = jnp.where(real.any(axis=-1, keepdims=True), -cost / temperature, 0.0)
        weights = jax.nn.softmax(logits, axis=-1)
    last = jnp.maximum(jnp.sum(answer_mask, axis=-1) - 1, 0)
    extreme_gap = jnp.abs(entropy[:, 0] - jnp.take_along_axis(entropy, last[:, None], axis=-1)[:, 0])
    return Pairs(
        adjacent_weights=jnp.where(real, weights, 0.0),
        adjacent_gaps=jnp.where(real, gaps, 0.0),
        extreme_mask=answer_mask[:, 0] & (last > 0) & (extreme_gap > 0),
        extreme_gap=extreme_gap,
        last=last,
    )


def trained_groups(
    scores: Float[Array, "B N"], answer_mask: Bool[Array, "B N"], *, config: PreferenceConfig
) -> Bool[Array, " B"]:
    """True where a group has a pair to train: what the loss is averaged over."""
    return _trains(_pairs(scores, answer_mask, config), config)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreferenceTerms:
    """Loss and statistics of each group; reduce over `group_mask`.

    Attributes:
      pair_loss: lambda_hard * l(adjacent) + lambda_easy * l(extreme), in nats.
      bco_loss: The same pairs under BCO: -log sigmoid(r_w - delta) - log sigmoid(-(r_l - delta)), without `delta`'s
        moving average: delta is the mean reward of the group's answers, which carries no gradient.
      group_mask: True where the group trains a pair.
      rewards: beta * (policy - reference) of each answer, or beta * policy under `reference = "none"`.
      margin: Reward of the first answer less that of the last.
      pairs: What was selected.
    """

    pair_loss: Float[Array, " B"]
    bco_loss: Float[Array, " B"]
    group_mask: Bool[Array, " B"]
    rewards: Float[Array, "B N"]
    margin: Float[Array, " B"]
    pairs: Pairs


def preference_terms(
    policy_logps: Float[Array, "B N"],
    reference_logps: Float[Array, "B N"],
    scores: Float[Array, "B N"],
    answer_mask: Bool[Array, "B N"],
    *,
    config: PreferenceConfig,
) -> PreferenceTerms:
    """E-DPO of each group of ranked answers: l(w, l) = -log sigmoid(r_w - r_l - eta * |H_w - H_l|).

    eta = 0, lambda_hard = 0 and lambda_easy = 1 give plain DPO of the best against the worst answer (Rafailov 2023).
    A group without two answers of different H trains nothing and has loss 0.

    Args:
      policy_logps: Summed log-probabilities under the policy, best answer first.
      reference_logps: The same under the frozen reference; not read under `reference = "none"`.
      scores: Judge scores, 1 to 5.
      answer_mask: True where the group has an answer, without holes.
    """
    pairs = _pairs(scores, answer_mask, config)
    ratio = policy_logps - reference_logps if config.reference == "ratio" else policy_logps
    rewards = config.beta * jnp.where(answer_mask, ratio, 0.0)
    worst = jnp.take_along_axis(rewards, pairs.last[:, None], axis=-1)[:, 0]

    def reduce(adjacent: Array, extreme: Array) -> Array:
        hard = jnp.sum(pairs.adjacent_weights * adjacent, axis=-1)
        return config.lambda_hard * hard + config.lambda_easy * jnp.where(pairs.extreme_mask, extreme, 0.0)

    adjacent_margin = rewards[:, :-1] - rewards[:, 1:]
    extreme_margin = rewards[:, 0] - worst
    pair_loss = reduce(
        jax.nn.softplus(config.eta * pairs.adjacent_gaps - adjacent_margin),
        jax.nn.softplus(config.eta * pairs.extreme_gap - extreme_margin),
    )
    delta = jax.lax.stop_gradient(jnp.sum(rewards, axis=-1) / jnp.maximum(jnp.sum(answer_mask, axis=-1), 1))
    lower, upper = jax.nn.softplus(rewards - delta[:, None]), jax.nn.softplus(delta[:, None] - rewards)
    bco_loss = reduce(upper[:, :-1] + lower[:, 1:], upper[:, 0] + jax.nn.softplus(worst - delta))
    return PreferenceTerms(
        pair_loss=pair_loss,
        bco_loss=bco_loss,
        group_mask=_trains(pairs, config),
        rewards=rewards,
        margin=extreme_margin,
        pairs=pairs,
    )


def _pairs(scores: Array, answer_mask: Array, config: PreferenceConfig) -> Pairs:
    entropy = answer_entropy(scores, answer_mask, temperature=config.tau, reading=config.entropy)
    return select_pairs(entropy, answer_mask, selection=config.selection, temperature=config.soft_temperature)


def _trains(pairs: Pairs, config: PreferenceConfig) -> Array:
    adjacent = (config.lambda_hard > 0) & (pairs.adjacent_weights.sum(axis=-1) > 0)
    return adjacent | ((config.lambda_easy > 0) & pairs.extreme_mask)
