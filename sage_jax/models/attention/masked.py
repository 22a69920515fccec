"""Scaled dot-product attention with grouped queries and an arbitrary mask."""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float
from sage_jax.sharding import constrain

CACHED: Final = "brsx,brxt->brst"
"""Product of queries with keys that lie as a cache keeps them."""

_FEW: Final = 4


def attend(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B U R X"],
    values: Float[Array, "B U R X"],
    mask: Bool[Array, "B S T"] | None = None,
) -> Float[Array, "B S Y X"]:
    """Attention output, softmax(q k / sqrt(X)) v, in the inputs' dtype.

    N query heads share R key/value heads, N / R each, in order. Softmax is taken in float32 or wider. A query that
    sees no key attends to all of them equally: its output is meaningless and finite.

    Args:
      mask: True where a query sees a key; None = everywhere.
    """
    # One matrix product a key/value head, heads leading: on CPU this is several times faster than leaving the
    # transposition to XLA's dot, elsewhere the same.
    return _attend(queries, keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3), mask, "brsx,brtx->brst")


@jax.named_scope("attention")
def attend_cached(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B R X U"],
    values: Float[Array, "B R U X"],
    mask: Bool[Array, "B S T"],
) -> Float[Array, "B S Y X"]:
    """The same over keys and values that lie as a cache keeps them.

    Each is read once, in the order it is stored in: a cache laid out as `attend` takes them would be transposed, whole,
    for every token that is decoded.
    """
    return _attend(queries, keys, values, mask, CACHED)


def _attend(queries: Array, keys: Array, values: Array, mask: Array | None, product: str) -> Array:
    """Attention with heads leading in keys and values; `product` says how a key/value head's keys lie."""
    batch, length, num_heads, width = queries.shape
    num_kv_heads = values.shape[1]
    groups = num_heads // num_kv_heads
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    blocks = []
    for first, end in query_blocks(length, groups * values.shape[2]):
        seen = None if mask is None else mask[:, first:end]
        blocks.append(_attend_block(grouped[:, :, :, first:end], keys, values, seen, product))
    out = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, num_heads, width)


def _attend_block(grouped: Array, keys: Array, values: Array, mask: Array | None, product: str) -> Array:
    """Attention of queries [B, R, G, S, X]; sums of weights divide the outputs, which are fewer than the weights."""
    batch, num_kv_heads, groups, length, width = grouped.shape
    queries = grouped.reshape(batch, num_kv_heads, groups * length, width)
    if product == CACHED and groups * length <= _FEW and jax.default_backend() == "cpu":
        logits = jnp.sum(queries[..., None] * keys[:, :, None], axis=3)  # on two threads, the product on one
    else:
        logits = jnp.einsum(product, queries, keys)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if mask is not None:
        logits = logits.reshape(batch, num_kv_heads, groups, length, -1)
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
        logits = logits.reshape(batch, num_kv_heads, groups * length, -1)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    out = jnp.einsum("brst,brtx->brsx", weights.astype(values.dtype), values)
    out = (out / jnp.sum(weights, axis=-1, keepdims=True)).astype(values.dtype)
    return out.reshape(grouped.shape)


CPU_BLOCK = 2**16
"""Logits of one head's block of queries on a CPU: 256 KiB, which stay in the caches between the two products."""

_MOST_BLOCKS = 16


def query_blocks(length: int, row: int) -> list[tuple[int, int]]:
    """Blocks of `length` queries, each with `row` logits a head, that are computed one after the other: first and end.

    On a CPU a block holds at most CPU_BLOCK logits, for with more XLA's fused attention takes two to five times as long
    (docs/benchmarks.md); there are at most 16 blocks, or compiling takes long. Elsewhere all queries are one block.
    """
    blocks = -(-length * row // CPU_BLOCK) if jax.default_backend() == "cpu" else 1
    size = -(-length // min(max(blocks, 1), _MOST_BLOCKS))
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def split_qkv(
    projected: Float[Array, "B S E"], *, num_heads: int, num_kv_heads: int
) -> tuple[Float[Array, "B S Y X"], Float[Array, "B S R X"], Float[Array, "B S R X"]]:
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
