"""Log-probabilities of answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int


def token_logps(logits: Float[Array, "... V"], target_ids: Int[Array, "..."]) -> Float[Array, "..."]:
    """Log-probability of each target token, in nats; float32, <= 0."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, target_ids[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def answer_logps(token_logps: Float[Array, "... L"], target_mask: Bool[Array, "... L"]) -> Float[Array, "..."]:
    """Summed log-probability of each answer, in nats; 0 for an answer without tokens."""
    return jnp.sum(jnp.where(target_mask, token_logps, 0.0), axis=-1)
