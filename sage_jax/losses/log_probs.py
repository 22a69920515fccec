"""Log-probabilities of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int


def token_logps(logits: Float[Array, "... V"], target_ids: Int[Array, "..."]) -> Float[Array, "..."]:
    """Log-probability of each target token, in nats; float32, <= 0."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, target_ids[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


CHUNK_LOGITS: Final = 1 << 26
"""Most logits of one row that are in memory at once: 256 MiB in float32."""


def answer_token_logps(
    hidden: Float[Array, "B S D"],
    source_index: Int[Array, "B Q N L"],
    target_ids: Int[Array, "B Q N L"],
    target_mask: Bool[Array, "B Q N L"],
    logits_of: Callable[[Array], Array],
    *,
    vocab_size: int,
    target_slots: int = 0,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Float[Array, "B Q N L"], Bool[Array, "B Q N L"]]:
    """Log-probability of each token of all answers of a tree, in nats, and whether it is the likeliest token.

    Logits are computed for real answer tokens alone, put together in `target_slots` a row. Masked tokens get 0 and
    False.

    Args:
      hidden: Hidden states of the whole sequence.
      source_index: Index into S of the token whose logits predict the answer token.
      logits_of: Output layer: hidden states to logits.
      vocab_size: Number of logits of a token.
      target_slots: Room for the answer tokens of any row; 0 = for all that there could be.
      chunk_logits: Most logits of one row at once.
    """
    rows = len(hidden)
    real, sources, targets = (x.reshape(rows, -1) for x in (target_mask, source_index, target_ids))
    slots = target_slots or real.shape[1]
    # Real tokens first, in their order; where there are fewer than slots, masked ones fill up.
    chosen = jnp.argsort(~real, axis=1, stable=True)[:, :slots]
    # Row by row: indexed by row numbers instead, each device would hold the answers of all devices' rows.
    states = jax.vmap(lambda states, index: states[index])(hidden, jnp.take_along_axis(sources, chosen, axis=1))
    each, is_top = chunked_token_logps(
        states,
        jnp.take_along_axis(targets, chosen, axis=1),
        logits_of,
        vocab_size=vocab_size,
        chunk_logits=chunk_logits,
    )
    slot = jnp.clip(jnp.cumsum(real, axis=1) - 1, 0, slots - 1)
    logps = jnp.where(real, jnp.take_along_axis(each, slot, axis=1), 0.0)
    top = real & jnp.take_along_axis(is_top, slot, axis=1)
    return logps.reshape(target_mask.shape), top.reshape(target_mask.shape)


def chunked_token_logps(
    hidden: Float[Array, "B J D"],
    target_ids: Int[Array, "B J"],
    logits_of: Callable[[Array], Array],
    *,
    vocab_size: int,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Float[Array, "B J"], Bool[Array, "B J"]]:
    """`token_logps` of hidden states, and whether each target is the likeliest token.

    No array of all tokens times the vocabulary is ever made: logits come chunk by chunk, each of some tokens of every
    row, and the backward pass computes them again. Where they all fit into one chunk they are kept instead.

    Args:
      logits_of: Output layer: hidden states to logits.
      vocab_size: Number of logits of a token.
      chunk_logits: Most logits of one row at once.
    """
    rows, length = target_ids.shape
    num_chunks = -(-length * vocab_size // chunk_logits)

    def score(hidden: Array, targets: Array) -> tuple[Array, Array]:
        logits = logits_of(hidden).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1), chosen >= jnp.max(logits, axis=-1)

    if num_chunks <= 1:
        return score(hidden, target_ids)
    size = -(-length // num_chunks)

    def cut(x: Array) -> Array:
        """Chunks in front: rows are split over devices and stay whole."""
        padded = jnp.pad(x, ((0, 0), (0, size * num_chunks - length), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(padded.reshape(rows, num_chunks, size, *x.shape[2:]), 1, 0)

    def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return None, jax.checkpoint(score)(*chunk)

    _, chunks = jax.lax.scan(step, None, (cut(hidden), cut(target_ids)))
    logps, is_top = (jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length] for x in chunks)
    return logps, is_top


def answer_logps(token_logps: Float[Array, "... L"], target_mask: Bool[Array, "... L"]) -> Float[Array, "..."]:
    """Summed log-probability of each answer, in nats; 0 for an answer without tokens."""
    return jnp.sum(jnp.where(target_mask, token_logps, 0.0), axis=-1)
