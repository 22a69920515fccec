"""Attention over a packed tree as a Pallas kernel for GPUs, which reads no block of keys that a block of queries
does not see.

The sequence lies as the batch packs it, in blocks of 64 tokens. What a token sees follows from its question and its
answer, which the kernel reads beside it: no S x S mask is stored. Of each block of queries a list says which blocks of
keys it sees, and of each block of keys which blocks of queries see it:

    blocks      p p p q a a q a        rows see columns
    p           x
    p           x x
    p           x x x
    q, a        x x x x
    a           x x x x x
    a           x x x x   x            another answer of the same question
    q           x x x       x
    a           x x x       x x

Forward and backward pass are those of FlashAttention-2 (arXiv 2307.08691) over these lists: outputs and the logarithm
of each query's sum of weights are kept, weights are computed again.

Compiled for an H100 (Triton 3.9, heads of width 128 in bfloat16) the three kernels take 82 to 99 kB of shared memory
and 193 to 255 registers a thread, of which the gradient of keys spills 264 bytes. Measured on an H200, not tuned:
docs/benchmarks.md.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from sage_jax.axes import Array, Float
from sage_jax.models.attention.blocks import BLOCK, PADDING, TreeBlocks
from sage_jax.sharding import on_each_device

_LOWEST: Final = -1e30
_LOG2_E: Final = math.log2(math.e)
_HEADS: Final = ("batch", "none", "heads", "none")


def attend_blocks(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    blocks: TreeBlocks,
    *,
    interpret: bool,
) -> Float[Array, "B S Y X"]:
    """What `attend` gives under the tree's mask, in the inputs' dtype; 0 at tokens that see nothing, as padding does.

    N query heads share R key/value heads, N / R each, in order. Softmax and sums are float32 or wider. On several
    devices each computes its own rows and heads.

    Args:
      interpret: Computes without a GPU what the kernels compute on one, for tests: slowly.
    """
    compute = functools.partial(_attend_on_device, interpret=interpret)
    return on_each_device(compute, (queries, keys, values, blocks), (_HEADS, _HEADS, _HEADS, ("batch",)), _HEADS)


def _attend_on_device(queries: Array, keys: Array, values: Array, blocks: TreeBlocks, *, interpret: bool) -> Array:
    """Attention with the sequence padded to whole blocks, and heads to a width that the compiler takes."""
    _, length, _, width = queries.shape
    more = (0, blocks.question_index.shape[1] - length), (0, 0), (0, max(pl.next_power_of_2(width), 16) - width)
    queries, keys, values = (jnp.pad(x, ((0, 0), *more)) for x in (queries, keys, values))
    out: Array = _attention(queries, keys, values, blocks, width**-0.5, interpret)
    return out[:, :length, :, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(queries: Array, keys: Array, values: Array, blocks: TreeBlocks, scale: float, interpret: bool) -> Array:
    return _forward(queries, keys, values, blocks, scale, interpret)[0]


def _forward(
    queries: Array, keys: Array, values: Array, blocks: TreeBlocks, scale: float, interpret: bool
) -> tuple[Array, tuple[Any, ...]]:
    rows, length, num_heads, _ = queries.shape
    sums = jax.ShapeDtypeStruct((rows, num_heads, length), _wide(queries.dtype))
    specs = _Specs(queries, keys.shape[2])
    outputs, logsumexp = pl.pallas_call(
        functools.partial(_forward_kernel, scale=scale),
        grid=(length // BLOCK, num_heads, rows),
        in_specs=[specs.query_block, specs.all_keys, specs.all_keys, specs.owner, specs.owner, specs.seen, specs.count],
        out_specs=[specs.query_block, specs.query_sums],
        out_shape=[jax.ShapeDtypeStruct(queries.shape, queries.dtype), sums],
        compiler_params=specs.compiler_params,
        interpret=interpret,
        name="tree_attention",
    )(queries, keys, values, blocks.question_index, blocks.answer_index, blocks.keys_seen, blocks.num_keys_seen)
    return outputs, (queries, keys, values, blocks, outputs, logsumexp)


def _backward(
    scale: float, interpret: bool, kept: tuple[Any, ...], cotangent: Array
) -> tuple[Array, Array, Array, None]:
    queries, keys, values, blocks, outputs, logsumexp = kept
    rows, length, num_heads, _ = queries.shape
    num_kv_heads, wide = keys.shape[2], _wide(queries.dtype)
    delta = jnp.einsum("bsnx,bsnx->bns", outputs.astype(wide), cotangent.astype(wide))
    owners = blocks.question_index, blocks.answer_index
    specs = _Specs(queries, num_kv_heads)
    read = (queries, keys, values, cotangent, logsumexp, delta, *owners)
    common = {"compiler_params": specs.compiler_params, "interpret": interpret}
    of_queries = pl.pallas_call(
        functools.partial(_query_gradient_kernel, scale=scale),
        grid=(length // BLOCK, num_heads, rows),
        in_specs=[
            *(specs.query_block, specs.all_keys, specs.all_keys, specs.query_block, specs.query_sums, specs.query_sums),
            *(specs.owner, specs.owner, specs.seen, specs.count),
        ],
        out_specs=specs.query_block,
        out_shape=jax.ShapeDtypeStruct(queries.shape, queries.dtype),
        name="tree_attention_query_gradient",
        **common,
    )(*read, blocks.keys_seen, blocks.num_keys_seen)
    of_keys, of_values = pl.pallas_call(
        functools.partial(_key_gradient_kernel, scale=scale, groups=num_heads // num_kv_heads),
        grid=(length // BLOCK, num_kv_heads, rows),
        in_specs=[
            *(specs.group, specs.key_block, specs.key_block, specs.group, specs.group_sums, specs.group_sums),
            *(specs.owner, specs.owner, specs.seen, specs.count),
        ],
        out_specs=[specs.key_block, specs.key_block],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (keys, values)],
        name="tree_attention_key_gradient",
        **common,
    )(*read, blocks.seen_by, blocks.num_seen_by)
    return of_queries, of_keys, of_values, None


_attention.defvjp(_forward, _backward)


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


class _Specs:
    """What of each array a program gets, whose three indices are a block, a head and a row.

    Programs of queries have one query head, `query_block` and the keys of its key/value head; programs of keys have one
    key/value head, `key_block` and the queries of its `group`. Only what is loaded is read: an array that a program
    gets whole costs nothing.
    """

    def __init__(self, queries: Array, num_kv_heads: int):
        _, length, num_heads, width = queries.shape
        groups, blocks = num_heads // num_kv_heads, length // BLOCK
        self.query_block = self.key_block = pl.BlockSpec((None, BLOCK, None, width), lambda i, n, b: (b, i, n, 0))
        self.all_keys = pl.BlockSpec((None, length, None, width), lambda i, n, b: (b, 0, n // groups, 0))
        self.group = pl.BlockSpec((None, length, groups, width), lambda i, r, b: (b, 0, r, 0))
        self.query_sums = pl.BlockSpec((None, None, BLOCK), lambda i, n, b: (b, n, i))
        self.group_sums = pl.BlockSpec((None, groups, length), lambda i, r, b: (b, r, 0))
        self.owner = pl.BlockSpec((None, length), lambda i, n, b: (b, 0))
        self.seen = pl.BlockSpec((None, None, blocks), lambda i, n, b: (b, i, 0))
        self.count = pl.BlockSpec((None, blocks), lambda i, n, b: (b, 0))
        # Two stages hold two blocks of keys and of values, at width 128 in 16 bits 64 KiB; wide heads need registers.
        stages = 2 if width * queries.dtype.itemsize <= 512 else 1
        self.compiler_params = plgpu.CompilerParams(num_warps=4 if width <= 128 else 8, num_stages=stages)


def _at(block: Any) -> Any:
    return pl.ds(block * BLOCK, BLOCK)


def _owners(question_ref: Any, answer_ref: Any, block: Any) -> tuple[Array, Array, Array]:
    """Place, question and answer of each token of a block."""
    return (
        block * BLOCK + jnp.arange(BLOCK),
        plgpu.load(question_ref.at[_at(block)]),
        plgpu.load(answer_ref.at[_at(block)]),
    )


def _sees(queries: tuple[Array, ...], keys: tuple[Array, ...], *, keys_first: bool = False) -> Array:
    """True where a query sees a key: queries by keys, or keys by queries."""
    (position, question, answer) = (x[None] if keys_first else x[:, None] for x in queries)
    (key_position, key_question, key_answer) = (x[:, None] if keys_first else x[None] for x in keys)
    branch = ((key_question == -1) | (key_question == question)) & ((key_answer == -1) | (key_answer == answer))
    return branch & (key_position <= position) & (question > PADDING)


def _forward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    question_ref: Any,
    answer_ref: Any,
    seen_ref: Any,
    count_ref: Any,
    out_ref: Any,
    logsumexp_ref: Any,
    *,
    scale: float,
) -> None:
    """Outputs of a block of queries of one head; their sums of weights as logarithms to base 2, scores scaled alike."""
    block = pl.program_id(0)
    queries, own = plgpu.load(query_ref), _owners(question_ref, answer_ref, block)
    wide = _wide(queries.dtype)

    def add(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, total, highest = carry
        other = seen_ref[step]
        sees = _sees(own, _owners(question_ref, answer_ref, other))
        scores = plgpu.dot(queries, plgpu.load(key_ref.at[_at(other)]).T) * (scale * _LOG2_E)
        scores = jnp.where(sees, scores, _LOWEST)
        higher = jnp.maximum(highest, jnp.max(scores, axis=1))
        weights = jnp.where(sees, jnp.exp2(scores - higher[:, None]), 0.0)
        kept = jnp.exp2(highest - higher)
        values = plgpu.load(value_ref.at[_at(other)])
        out = out * kept[:, None] + plgpu.dot(weights.astype(values.dtype), values)
        return out, total * kept + jnp.sum(weights, axis=1), higher

    start = jnp.zeros(queries.shape, wide), jnp.zeros(BLOCK, wide), jnp.full(BLOCK, _LOWEST, wide)
    out, total, highest = jax.lax.fori_loop(0, count_ref[block], add, start)
    total = jnp.where(total > 0.0, total, 1.0)  # of a query that sees nothing
    plgpu.store(out_ref, (out / total[:, None]).astype(out_ref.dtype))
    plgpu.store(logsumexp_ref, highest + jnp.log2(total))


def _query_gradient_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cotangent_ref: Any,
    logsumexp_ref: Any,
    delta_ref: Any,
    question_ref: Any,
    answer_ref: Any,
    seen_ref: Any,
    count_ref: Any,
    gradient_ref: Any,
    *,
    scale: float,
) -> None:
    """Gradient of a block of queries of one head."""
    block = pl.program_id(0)
    own = _owners(question_ref, answer_ref, block)
    queries, cotangent = plgpu.load(query_ref), plgpu.load(cotangent_ref)
    logsumexp, delta = plgpu.load(logsumexp_ref), plgpu.load(delta_ref)

    def add(step: Array, gradient: Array) -> Array:
        other = seen_ref[step]
        keys, values = plgpu.load(key_ref.at[_at(other)]), plgpu.load(value_ref.at[_at(other)])
        scores = plgpu.dot(queries, keys.T) * (scale * _LOG2_E)
        sees = _sees(own, _owners(question_ref, answer_ref, other))
        weights = jnp.where(sees, jnp.exp2(scores - logsumexp[:, None]), 0.0)
        of_scores = weights * (plgpu.dot(cotangent, values.T) - delta[:, None])
        return gradient + plgpu.dot(of_scores.astype(keys.dtype), keys)

    start = jnp.zeros(queries.shape, _wide(queries.dtype))
    gradient = jax.lax.fori_loop(0, count_ref[block], add, start)
    plgpu.store(gradient_ref, (gradient * scale).astype(gradient_ref.dtype))


def _key_gradient_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cotangent_ref: Any,
    logsumexp_ref: Any,
    delta_ref: Any,
    question_ref: Any,
    answer_ref: Any,
    seen_ref: Any,
    count_ref: Any,
    key_gradient_ref: Any,
    value_gradient_ref: Any,
    *,
    scale: float,
    groups: int,
) -> None:
    """Gradients of a block of keys and values of one key/value head, over all query heads that share it."""
    block = pl.program_id(0)
    own = _owners(question_ref, answer_ref, block)
    keys, values = plgpu.load(key_ref), plgpu.load(value_ref)

    def add(head: Array, step: Array, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
        of_keys, of_values = gradients
        other = seen_ref[step]
        at = _at(other)
        queries, cotangent = plgpu.load(query_ref.at[at, head]), plgpu.load(cotangent_ref.at[at, head])
        logsumexp, delta = plgpu.load(logsumexp_ref.at[head, at]), plgpu.load(delta_ref.at[head, at])
        scores = plgpu.dot(keys, queries.T) * (scale * _LOG2_E)  # keys by queries
        sees = _sees(_owners(question_ref, answer_ref, other), own, keys_first=True)
        weights = jnp.where(sees, jnp.exp2(scores - logsumexp[None]), 0.0)
        of_values += plgpu.dot(weights.astype(cotangent.dtype), cotangent)
        of_scores = weights * (plgpu.dot(values, cotangent.T) - delta[None])
        return of_keys + plgpu.dot(of_scores.astype(queries.dtype), queries), of_values

    def add_head(head: Array, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.lax.fori_loop(0, count_ref[block], functools.partial(add, head), gradients)

    start = (jnp.zeros(keys.shape, _wide(keys.dtype)),) * 2
    of_keys, of_values = jax.lax.fori_loop(0, groups, add_head, start)
    plgpu.store(key_gradient_ref, (of_keys * scale).astype(key_gradient_ref.dtype))
    plgpu.store(value_gradient_ref, of_values.astype(value_gradient_ref.dtype))
