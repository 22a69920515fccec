"""Attention against loops over heads, queries and keys in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.models.attention import masked as attention
from sage_jax.models.attention.masked import attend, attend_cached, split_qkv


def looped(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    batch, length, heads, width = queries.shape
    out = np.zeros((batch, length, heads, width))
    for b, i, head in np.ndindex(batch, length, heads):
        shared = head // (heads // keys.shape[2])
        seen = np.flatnonzero(mask[b, i])
        logits = keys[b, seen, shared].astype(np.float64) @ queries[b, i, head] / np.sqrt(width)
        weights = np.exp(logits - logits.max())
        out[b, i, head] = (weights / weights.sum()) @ values[b, seen, shared]
    return out


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_grouped_attention_equals_loops_under_any_mask(num_kv_heads: int) -> None:
    rng = np.random.default_rng(num_kv_heads)
    queries = rng.normal(0.0, 2.0, (2, 5, 4, 6)).astype(np.float32)
    keys, values = (rng.normal(0.0, 2.0, (2, 7, num_kv_heads, 6)).astype(np.float32) for _ in range(2))
    mask = rng.random((2, 5, 7)) < 0.5
    mask[..., 3] = True
    found = attend(*map(jnp.asarray, (queries, keys, values, mask)))
    np.testing.assert_allclose(found, looped(queries, keys, values, mask), atol=1e-5)
    found = attend(*map(jnp.asarray, (queries, keys, values)))
    np.testing.assert_allclose(found, looped(queries, keys, values, np.ones((2, 5, 7), bool)), atol=1e-5)
    for length in (1, 5):  # a few queries are multiplied without a product of matrices
        few = queries[:, :length], keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3), mask[:, :length]
        found = attend_cached(*map(jnp.asarray, few))
        np.testing.assert_allclose(found, looped(queries[:, :length], keys, values, mask[:, :length]), atol=1e-5)


def test_a_query_that_sees_nothing_is_finite_and_others_do_not_change() -> None:
    rng = np.random.default_rng(3)
    queries, keys, values = (jnp.asarray(rng.normal(size=(1, 3, 2, 4)), jnp.float32) for _ in range(3))
    mask = jnp.array([[[True, False, False], [False] * 3, [True, True, False]]])
    found = attend(queries, keys, values, mask)
    assert jnp.isfinite(found).all()
    kept = jnp.array([0, 2])
    np.testing.assert_allclose(found[:, kept], attend(queries[:, kept], keys, values, mask[:, kept]), atol=1e-6)


def test_hidden_keys_and_values_never_reach_the_output() -> None:
    rng = np.random.default_rng(4)
    queries, keys, values = (rng.normal(size=(1, 4, 2, 4)).astype(np.float32) for _ in range(3))
    mask = jnp.asarray(np.tile([True, True, False, True], (1, 4, 1)))
    before = attend(jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(values), mask)
    keys[:, 2], values[:, 2] = 1e3, -1e4
    after = attend(jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(values), mask)
    np.testing.assert_array_equal(after, before)


def test_bfloat16_stays_bfloat16_with_a_float32_softmax() -> None:
    rng = np.random.default_rng(5)
    exact = [jnp.asarray(rng.normal(size=(1, 64, 2, 8)), jnp.bfloat16) for _ in range(3)]
    found = attend(*exact)
    assert found.dtype == jnp.bfloat16
    expected = attend(*(x.astype(jnp.float32) for x in exact))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02)


def test_projection_columns_are_grouped_by_key_value_head() -> None:
    # 4 query heads on 2 key/value heads of width 3; columns numbered as they stand
    projected = jnp.arange(24.0)[None, None]
    queries, keys, values = split_qkv(projected, num_heads=4, num_kv_heads=2)
    np.testing.assert_array_equal(queries[0, 0], [[0, 1, 2], [3, 4, 5], [12, 13, 14], [15, 16, 17]])
    np.testing.assert_array_equal(keys[0, 0], [[6, 7, 8], [18, 19, 20]])
    np.testing.assert_array_equal(values[0, 0], [[9, 10, 11], [21, 22, 23]])


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_queries_give_what_one_block_gives_and_its_gradient(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    queries = jnp.asarray(rng.normal(0.0, 2.0, (2, 37, 4, 6)), jnp.float32)
    keys, values = (jnp.asarray(rng.normal(0.0, 2.0, (2, 40, 2, 6)), jnp.float32) for _ in range(2))
    mask = jnp.asarray(rng.random((2, 37, 40)) < 0.5) if masked else None
    wanted = jnp.asarray(rng.normal(size=queries.shape), jnp.float32)

    def value_and_gradient(most: int) -> tuple[int, object]:
        monkeypatch.setattr(attention, "CPU_BLOCK", most)
        blocks = len(attention.query_blocks(37, 2 * 40))
        of = jax.value_and_grad(lambda q, k, v: jnp.vdot(wanted, attend(q, k, v, mask)), argnums=(0, 1, 2))
        return blocks, of(queries, keys, values)

    (one, whole), (several, in_blocks) = value_and_gradient(2**16), value_and_gradient(800)
    assert (one, several) == (1, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), in_blocks, whole)


def test_query_blocks_cover_all_queries_once_within_the_limit() -> None:
    for length, row in [(1, 7), (257, 257), (1025, 1025), (3, 2**17)]:
        blocks = attention.query_blocks(length, row)
        assert [index for first, end in blocks for index in range(first, end)] == list(range(length))
        fits = all((end - first) * row <= attention.CPU_BLOCK for first, end in blocks)
        assert fits or len(blocks) == min(length, 16) or length * row > 16 * attention.CPU_BLOCK
