"""Scaled dot-product attention with grouped queries and an arbitrary mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float
from sage_jax.sharding import constrain


def attend(
    queries: Float[Array, "B S N X"],
    keys: Float[Array, "B T R X"],
    values: Float[Array, "B T R X"],
    mask: Bool[Array, "B S T"] | None = None,
) -> Float[Array, "B S N X"]:
    """Attention output, softmax(q k / sqrt(X)) v, in the inputs' dtype.

    N query heads share R key/value heads, N / R each, in order. Softmax is taken in float32 or wider. A query that
    sees no key attends to all of them equally: its output is meaningless and finite.

    Args:
      mask: True where a query sees a key; None = everywhere.
    """
    batch, length, num_heads, width = queries.shape
    num_kv_heads = keys.shape[2]
    groups = num_heads // num_kv_heads
    # One matrix product a key/value head, heads leading: on CPU this is several times faster than leaving the
    # transposition to XLA's dot, elsewhere the same.
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, num_kv_heads, groups * length, width)
    logits = jnp.einsum("brsx,brtx->brst", grouped, keys.transpose(0, 2, 1, 3))
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = logits.reshape(batch, num_kv_heads, groups, length, -1)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype).reshape(batch, num_kv_heads, groups * length, -1)
    out = jnp.einsum("brst,brtx->brsx", weights, values.transpose(0, 2, 1, 3))
    out = out.reshape(batch, num_kv_heads, groups, length, width).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, num_heads, width)


def split_qkv(
    projected: Float[Array, "B S E"], *, num_heads: int, num_kv_heads: int
) -> tuple[Float[Array, "B S N X"], Float[Array, "B S R X"], Float[Array, "B S R X"]]:
    """Queries of all heads, and keys and values of the key/value heads, from one projection.

    The columns are grouped as InternLM2 publishes them: for each key/value head its query heads, then key, then value.
    So a split of the projection over key/value heads keeps every head whole.
    """
    batch, length, columns = projected.shape
    slots = num_heads // num_kv_heads + 2
    head_dim = columns // (num_kv_heads * slots)
    grouped = projected.reshape(batch, length, num_kv_heads, slots, head_dim)
    grouped = constrain(grouped, "batch", "none", "heads", "none", "none")
    queries = grouped[:, :, :, :-2].reshape(batch, length, num_heads, head_dim)
    return queries, grouped[:, :, :, -2], grouped[:, :, :, -1]
