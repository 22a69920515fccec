"""Attention of one decoder layer over a tree, each way of computing it: forward, and forward with backward.

    python -m bench.attention --size 8b

Five questions of one image with four answers each, heads random in the dtype that the size computes in here. Each way
that runs on the device gets a line, with its distance from masked attention in float32, and its floor: operations
between visible pairs at the device's peak, 4 a pair, head and channel forward, 14 with the backward pass, which
computes the scores again. `causal`, on a GPU, is cuDNN's attention over a plain sequence of that length, beside it:
it has a third more pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from bench.measure import parser, peak_flops, say, size_of, timed
from bench.model_flops import visible_pairs
from bench.sizes import Size, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError
from sage_jax.models.attention.blocks import tree_blocks
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.select import Attention, Visibility, attend_visible, attention_of, takes_cudnn
from sage_jax.models.attention.tree import TreeBranches, TreeSlots, tree_layout
from sage_jax.models.sage import compute_dtype, tree_mask

WAYS: Final[tuple[Attention, ...]] = ("masked", "tree", "pallas", "cudnn", "splash")

Heads = tuple[jax.Array, jax.Array, jax.Array]


def visibility_of(batch: TreeBatch, way: Attention) -> Visibility:
    """What each token sees, as a way of computing attention takes it (`Sage.visibility`)."""
    tree = batch.token_mask, batch.question_index, batch.answer_index
    if way == "masked":
        return tree_mask(*tree)
    if way == "pallas":
        return tree_blocks(*tree)
    layout = tree_layout(batch)
    return {"tree": layout, "cudnn": TreeBranches(layout), "splash": TreeSlots(layout)}[way]


def runs_here(size: Size, way: Attention) -> bool:
    """Whether a way runs on the devices of this process, in the size's dtype."""
    try:
        attention_of(dataclasses.replace(size.model, attention=way))
    except ConfigError:
        return False
    return True


def measure(
    way: str, of: Callable[..., jax.Array], given: Heads, size: Size, batch: TreeBatch, options: argparse.Namespace
) -> None:
    """Measures and prints one way, `of(queries, keys, values, batch)`."""
    heads, width = given[0].shape[2:]
    real = jnp.asarray(batch.token_mask)[..., None, None]
    weights = jax.random.normal(jax.random.key(3), given[0].shape, jnp.float32) * real

    def summed(given: Heads, batch: TreeBatch) -> jax.Array:
        return jnp.sum(of(*given, batch).astype(jnp.float32) * weights)

    def exact(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
        return attend(queries, keys, values, tree_mask(batch.token_mask, batch.question_index, batch.answer_index))

    forward, gradient = jax.jit(of), jax.jit(jax.value_and_grad(summed))
    placed = jax.tree.map(jnp.asarray, batch)
    steps = {"warmup": options.warmup, "repeats": options.repeats}
    alone, first = timed(lambda _: forward(*given, placed), **steps)
    both, _ = timed(lambda _: gradient(given, placed), **steps)
    figures: dict[str, Any] = {}
    if way != "causal":
        with jax.default_matmul_precision("highest"):
            wanted = jax.jit(exact)(*(x.astype(jnp.float32) for x in given), placed)
        found = forward(*given, placed).astype(jnp.float32)
        figures["error"] = float(jnp.linalg.norm((found - wanted) * real) / jnp.linalg.norm(wanted * real))
    pairs = float(visible_pairs(batch)) * heads * width
    peak = peak_flops(options)
    say(
        "attention",
        options,
        size,
        **{"attention": way},
        tokens=int(np.sum(batch.token_mask)),
        forward_ms=round(alone["seconds"] * 1e3, 3),
        both_ms=round(both["seconds"] * 1e3, 3),
        forward_floor_ms=round(4.0 * pairs / peak * 1e3, 4),
        both_floor_ms=round(14.0 * pairs / peak * 1e3, 4),
        n=alone["n"],
        others_cores=max(alone["others_cores"], both["others_cores"]),
        first_seconds=first,
        **figures,
    )


def main() -> None:
    """Measures and prints each way that runs here."""
    found = parser(__doc__)
    found.add_argument("--questions", type=int, default=5)
    found.add_argument("--answers", type=int, default=4)
    options = found.parse_args()
    size = size_of(options)
    batch = make_tree(size, rows=1, questions=options.questions, num_answers=options.answers, seed=1)
    batch = dataclasses.replace(batch, tiles=batch.tiles[:, :0])  # attention reads no pixels
    decoder, dtype = size.model.decoder, compute_dtype(size.model)
    length = batch.token_ids.shape[1]
    keys = jax.random.split(jax.random.key(0), 3)
    counts = decoder.num_heads, decoder.num_kv_heads, decoder.num_kv_heads
    drawn = [
        jax.random.normal(key, (1, length, count, decoder.width_of_head), dtype)
        for key, count in zip(keys, counts, strict=True)
    ]
    given = drawn[0], drawn[1], drawn[2]
    for way in WAYS:
        if not runs_here(size, way):
            continue

        def of(
            queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch, way: Attention = way
        ) -> jax.Array:
            return attend_visible(queries, keys, values, visibility_of(batch, way))

        measure(way, of, given, size, batch, options)
    if jax.default_backend() == "gpu" and takes_cudnn(jnp.dtype(dtype), decoder.width_of_head):
        measure("causal", _causal, given, size, batch, options)


def _causal(queries: jax.Array, keys: jax.Array, values: jax.Array, _: TreeBatch) -> jax.Array:
    return jax.nn.dot_product_attention(queries, keys, values, is_causal=True, implementation="cudnn")


if __name__ == "__main__":
    main()
