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
    # One matrix product a key/value head, heads leading: on CPU this is several times faster than leaving the
    # transposition to XLA's dot, elsewhere the same.
    return _attend(queries, keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3), mask, "brsx,brtx->brst")


def attend_cached(
    queries: Float[Array, "B S N X"],
    keys: Float[Array, "B R X T"],
    values: Float[Array, "B R T X"],
    mask: Bool[Array, "B S T"],
) -> Float[Array, "B S N X"]:
    """The same over keys and values that lie as a cache keeps them.

    Each is read once, in the order it is stored in: a cache laid out as `attend` takes them would be transposed, whole,
    for every token that is decoded.
    """
    return _attend(queries, keys, values, mask, "brsx,brxt->brst")


def _attend(queries: Array, keys: Array, values: Array, mask: Array | None, product: str) -> Array:
    """Attention with heads leading in keys and values; `product` says how a key/value head's keys lie."""
    batch, length, num_heads, width = queries.shape
    num_kv_heads = values.shape[1]
    groups = num_heads // num_kv_heads
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, num_kv_heads, groups * length, width)
    logits = jnp.einsum(product, grouped, keys)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = logits.reshape(batch, num_kv_heads, groups, length, -1)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype).reshape(batch, num_kv_heads, groups * length, -1)
    out = jnp.einsum("brst,brtx->brsx", weights, values)
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
