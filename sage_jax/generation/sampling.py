"""Choice of an answer's next token from its logits: greedy, or drawn, as transformers does both."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; every default is without effect.

    Attributes:
      temperature: Logits are divided by it before a draw; 0 = greedy, the likeliest token.
      top_k: Tokens among which one is drawn; 0 = all.
      top_p: Probability that the tokens among which one is drawn have together; 1 = all.
      repetition_penalty: What logits of tokens that stand in the conversation are divided (above 0) or multiplied
        (below 0) by, before everything else; greedy choice sees it too.
      seed: Of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0.0


def penalise_repetition(
    logits: Float[Array, "*batch V"], used: Bool[Array, "*batch V"], penalty: float
) -> Float[Array, "*batch V"]:
    """Logits, those of used tokens moved towards unlikely for a penalty above 1 (CTRL, Keskar et al. 2019)."""
    return jnp.where(used, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def warp(logits: Float[Array, "*batch V"], sampling: Sampling) -> Float[Array, "*batch V"]:
    """Logits of the distribution that tokens are drawn from: temperature, then top-k, then top-p.

    -inf where a token cannot be drawn; the likeliest one always can. Tokens as likely as the last of the top k stay,
    too. Of equally likely tokens at the border of top-p, those of higher id stay; in transformers, any.
    """
    warped = logits / sampling.temperature
    size = logits.shape[-1]
    if 0 < sampling.top_k < size:
        least = jax.lax.top_k(warped, sampling.top_k)[0][..., -1:]
        warped = jnp.where(warped < least, -jnp.inf, warped)
    if sampling.top_p < 1.0:
        order = jnp.argsort(warped, axis=-1)  # stable, ascending
        cumulative = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(warped, order, axis=-1), axis=-1), axis=-1)
        left_out = (cumulative <= 1.0 - sampling.top_p) & (jnp.arange(size) < size - 1)
        warped = jnp.where(
            jnp.put_along_axis(jnp.zeros(warped.shape, bool), order, left_out, axis=-1, inplace=False), -jnp.inf, warped
        )
    return warped


def draw_keys(seed: int, rows: Int[Array, " B"], num_questions: int, turn: Int[Array, ""]) -> Array:
    """A random key for each row's question in a turn, B Q: the same whatever batch the row is in.

    Args:
      rows: What tells a row's draws from those of others, 0 to 2^31 - 1.
    """

    def of(row: Array, question: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), row)
        return jax.random.fold_in(jax.random.fold_in(key, question), turn)

    return jax.vmap(jax.vmap(of, in_axes=(None, 0)), in_axes=(0, None))(rows, jnp.arange(num_questions))


def likeliest(logits: Float[Array, "*batch V"]) -> Int[Array, "*batch"]:
    """Index of the largest logit, the first of equal ones; 0 where one is not a number.

    Two passes that a CPU takes several numbers at a time, where its argmax takes one.
    """
    size = logits.shape[-1]
    below = logits < jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(below, size, jnp.arange(size, dtype=jnp.int32)), axis=-1)


def choose(
    logits: Float[Array, "B Q V"],
    used: Bool[Array, "B Q V"] | None,
    keys: Array,
    step: Int[Array, ""] | Int[Array, "B 1"],
    how: Sampling,
) -> Int[Array, "B Q"]:
    """The next token of each question's answer.

    Args:
      logits: Of the next token.
      used: True at the tokens of the question's conversation so far; None without a penalty.
      keys: Those of `draw_keys`.
      step: Number of the token in its answer, of all rows or of each.
    """
    if used is not None:
        logits = penalise_repetition(logits, used, how.repetition_penalty)
    if how.is_greedy:
        return likeliest(logits)

    def draw(key: Array, step: Array, each: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, step), each)

    return jax.vmap(jax.vmap(draw))(keys, jnp.broadcast_to(step, keys.shape), warp(logits, how)).astype(jnp.int32)
