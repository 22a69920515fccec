"""The GPU's attention, interpreted, against the plain masked form; and that it compiles for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.models.attention.blocks import BLOCK, TreeBlocks, tree_blocks
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.pallas_tree import attend_blocks
from sage_jax.models.sage import tree_mask
from tests.support.attention_cases import Owners, gradients, random_heads, random_owners, random_row, real_weights


def plain(queries: jax.Array, keys: jax.Array, values: jax.Array, owners: Owners) -> jax.Array:
    return attend(queries, keys, values, tree_mask(*owners))


@jax.jit
def kernel(queries: jax.Array, keys: jax.Array, values: jax.Array, owners: Owners) -> jax.Array:
    return attend_blocks(queries, keys, values, tree_blocks(*owners), interpret=True)


def trees(length: int) -> Owners:
    """Ragged trees: with short and with long answers, a row without answers, one of padding; holes in prefixes."""
    short = random_row(0, questions=3, answers=3, prefix=50, question=12, answer=14)
    long = random_row(1, questions=2, answers=1, prefix=5, question=40, answer=70)
    unanswered = random_row(2, questions=3, answers=0, prefix=70, question=30, answer=0)
    real, question, answer = random_owners(short, long, unanswered, [], length=length)
    return real.at[:, 2:4].set(False), question, answer


@pytest.mark.parametrize(
    ("heads", "width", "length"),
    [((4, 2), 6, 230), ((3, 3), 16, 256)],
    ids=["grouped", "own"],
)
def test_values_and_gradients_equal_those_of_masked_attention_in_float64(
    heads: tuple[int, int], width: int, length: int
) -> None:
    with jax.enable_x64(True):
        owners = trees(length)
        given = random_heads(owners[0], heads, width, jnp.float64)
        weights = real_weights(owners[0], given[0])
        (value, found), (wanted, expected) = (gradients(of, given, weights, owners) for of in (kernel, plain))
        assert int(tree_blocks(*owners).num_keys_seen.max()) > 2
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_narrow_inputs_give_outputs_of_their_dtype_that_are_finite_everywhere(dtype: Any) -> None:
    owners = trees(200)
    given = random_heads(owners[0], (4, 2), 16, dtype)
    out, real = kernel(*given, owners), np.asarray(owners[0])
    assert out.dtype == dtype and bool(jnp.isfinite(out).all())
    queries, keys, values = (x.astype(jnp.float32) for x in given)
    exact = np.asarray(plain(queries, keys, values, owners))
    atol = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(np.asarray(out, np.float32)[real], exact[real], atol=atol)
    np.testing.assert_array_equal(np.asarray(out, np.float32)[~real], 0.0)


def test_only_blocks_that_some_token_sees_are_listed() -> None:
    row = random_row(0, questions=5, answers=4, prefix=1900, question=100, answer=80)
    owners = random_owners(row, length=len(row) + 123)
    blocks = tree_blocks(*owners)
    seen = np.asarray(tree_mask(*owners))[0] & np.asarray(owners[0])[0][:, None]
    size = blocks.question_index.shape[1]
    seen = np.pad(seen, (0, size - owners[0].shape[1]))
    needed = np.asarray(seen.reshape(size // BLOCK, BLOCK, -1, BLOCK).any(axis=(1, 3)))
    for order, counts, wanted in (
        (blocks.keys_seen, blocks.num_keys_seen, needed),
        (blocks.seen_by, blocks.num_seen_by, needed.T),
    ):
        listed = np.zeros_like(wanted)
        for row, (places, count) in enumerate(zip(order[0].tolist(), counts[0].tolist(), strict=True)):
            assert places[:count] == sorted(places[:count])
            listed[row, places[:count]] = True
        np.testing.assert_array_equal(listed, wanted)
    assert needed.sum() < 0.8 * len(needed) * (len(needed) + 1) / 2  # fewer than causal attention has


def test_what_no_query_of_a_block_sees_is_never_read() -> None:
    """Not even to be weighted with zero: NaN there reaches nothing, forward or backward."""
    owners = random_owners([(-1, -1)] * 64 + [(0, -1)] * 64 + [(1, -1)] * 20 + [(1, 1)] * 90, length=250)
    queries, keys, values = random_heads(owners[0], (2, 1), 16, jnp.float32)
    last = (owners[1] == 1)[..., None, None]

    def of(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.sum(kernel(queries, keys, values, owners)[:, :128] ** 2)

    clean, poisoned = (
        jax.grad(of, argnums=(0, 1, 2))(queries, *(jnp.where(last, fill, x) for x in (keys, values)))
        for fill in (0.0, jnp.nan)
    )
    # Keys of the prefix are left out: the second question's queries, which are NaN themselves, see those.
    for before, after, first in zip(clean, poisoned, (0, 64, 64), strict=True):
        assert np.abs(before[:, first:128]).max() > 0.0
        np.testing.assert_array_equal(after[:, first:128], before[:, first:128])


def test_trees_in_any_order_are_computed_alike() -> None:
    """Blocks listed without need cost time alone: tokens in an order that no data has give the same values."""
    rng = np.random.default_rng(3)
    question, answer = (jnp.asarray(rng.integers(-1, most, (2, 260)), jnp.int32) for most in (3, 6))
    owners = jnp.asarray(rng.random((2, 260)) < 0.8), question, answer
    given = random_heads(owners[0], (2, 2), 8, jnp.float32)
    found, expected = (np.asarray(of(*given, owners)) for of in (kernel, plain))
    sees = np.asarray(tree_mask(*owners).any(axis=-1) & owners[0])
    np.testing.assert_allclose(found[sees], expected[sees], atol=1e-5)


def lowered_for_gpu(of: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> str:
    """The program for CUDA, compiled up to the kernels' Triton IR, which needs no GPU."""
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    return jax.export.export(jax.jit(of), platforms=["cuda"], disabled_checks=unchecked)(*arguments).mlir_module()


@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    [((32, 8), 128, jnp.bfloat16), ((14, 2), 64, jnp.bfloat16), ((8, 8), 96, jnp.float32)],
    ids=["8b", "1b", "float32"],
)
def test_forward_and_backward_pass_compile_for_a_gpu_without_an_array_of_the_sequences_square(
    heads: tuple[int, int], width: int, dtype: Any
) -> None:
    length = 3900
    sizes = [jax.ShapeDtypeStruct((2, length, n, width), dtype) for n in (heads[0], heads[1], heads[1])]
    owners = [jax.ShapeDtypeStruct((2, length), kind) for kind in (jnp.bool_, jnp.int32, jnp.int32)]

    def summed(queries: Any, keys: Any, values: Any, *owners: Any) -> jax.Array:
        blocks: TreeBlocks = tree_blocks(*owners)
        return jnp.sum(attend_blocks(queries, keys, values, blocks, interpret=False), dtype=jnp.float32)

    forward = lowered_for_gpu(summed, *sizes, *owners)
    backward = lowered_for_gpu(jax.grad(summed, argnums=(0, 1, 2)), *sizes, *owners)
    assert (forward.count("@__gpu$xla.gpu.triton("), backward.count("@__gpu$xla.gpu.triton(")) == (1, 3)
    assert "3904x3904" not in backward and "3900x3900" not in backward
