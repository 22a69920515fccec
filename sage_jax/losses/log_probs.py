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


CHUNK_LOGITS: Final = 1 << 25
"""Most logits of one row that are in memory at once: 128 MiB in float32."""


def chunked_token_logps(
    hidden: Float[Array, "B Q N L D"],
    target_ids: Int[Array, "B Q N L"],
    logits_of: Callable[[Array], Array],
    *,
    vocab_size: int,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Float[Array, "B Q N L"], Bool[Array, "B Q N L"]]:
    """`token_logps` of hidden states, and whether each target is the likeliest token.

    No array of all tokens times the vocabulary is ever made: logits come chunk by chunk, each of some tokens of every
    row, and the backward pass computes them again. Where they all fit into one chunk they are kept instead.

    Args:
      logits_of: Output layer: hidden states to logits.
      vocab_size: Number of logits of a token.
      chunk_logits: Most logits of one row at once.
    """
    rows, shape = len(hidden), target_ids.shape
    flat, targets = hidden.reshape(rows, -1, hidden.shape[-1]), target_ids.reshape(rows, -1)
    length = targets.shape[1]
    num_chunks = -(-length * vocab_size // chunk_logits)

    def score(hidden: Array, targets: Array) -> tuple[Array, Array]:
        logits = logits_of(hidden).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1), chosen >= jnp.max(logits, axis=-1)

    if num_chunks <= 1:
        logps, is_top = score(flat, targets)
        return logps.reshape(shape), is_top.reshape(shape)
    size = -(-length // num_chunks)

    def cut(x: Array) -> Array:
        """Chunks in front: rows are split over devices and stay whole."""
        padded = jnp.pad(x, ((0, 0), (0, size * num_chunks - length), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(padded.reshape(rows, num_chunks, size, *x.shape[2:]), 1, 0)

    def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return None, jax.checkpoint(score)(*chunk)

    _, chunks = jax.lax.scan(step, None, (cut(flat), cut(targets)))
    logps, is_top = (jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length].reshape(shape) for x in chunks)
    return logps, is_top


def answer_logps(token_logps: Float[Array, "... L"], target_mask: Bool[Array, "... L"]) -> Float[Array, "..."]:
    """Summed log-probability of each answer, in nats; 0 for an answer without tokens."""
    return jnp.sum(jnp.where(target_mask, token_logps, 0.0), axis=-1)
