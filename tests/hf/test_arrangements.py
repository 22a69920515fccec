"""Arrangements are undone exactly, and group queries, keys and values as the layouts publish them."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.hf.arrangements import Arrange, AsStored, LeadingOne, PatchKernel, SeparateQkv, StackedQkv, Twice
from tests.support.tiny_internvl import NUM_HEADS, NUM_KV_HEADS, internlm2_wqkv

ARRANGEMENTS: list[tuple[Arrange, tuple[int, ...]]] = [
    (AsStored(), (6, 4)),
    (LeadingOne(), (5, 4)),
    (PatchKernel(2), (6, 12)),
    (SeparateQkv(4, 2), (4 * 8, 5)),
    (SeparateQkv(4, 2), (4 * 8,)),
    (StackedQkv(2), (3 * 8, 5)),
    (StackedQkv(2), (3 * 8,)),
    (Twice(), (6, 4)),
]


@pytest.mark.parametrize(("arrange", "shape"), ARRANGEMENTS)
def test_an_arrangement_is_undone_exactly_and_gives_the_shapes_it_says(
    arrange: Arrange, shape: tuple[int, ...]
) -> None:
    whole = np.random.default_rng(0).standard_normal(shape)
    theirs = arrange.theirs(whole)
    assert [part.shape for part in theirs] == arrange.shapes(shape)
    np.testing.assert_array_equal(arrange.ours(theirs), whole)
    if arrange.rows_only and len(shape) == 2:
        np.testing.assert_array_equal(arrange.ours([part[:, 1:3] for part in theirs]), whole[:, 1:3])


def test_queries_keys_and_values_are_grouped_as_internlm2_publishes_them() -> None:
    """Each head's output, computed from the fused projection by its definition, is that of the separate ones."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((heads * 3, 7)) for heads in (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS))
    fused = SeparateQkv(NUM_HEADS, NUM_KV_HEADS).ours([query, key, value])
    np.testing.assert_array_equal(fused, internlm2_wqkv(query, key, value))
    x = rng.standard_normal(7)
    outputs = (fused @ x).reshape(NUM_KV_HEADS, NUM_HEADS // NUM_KV_HEADS + 2, 3)  # (h gs d)
    for h in range(NUM_KV_HEADS):
        for g in range(NUM_HEADS // NUM_KV_HEADS):
            head = h * (NUM_HEADS // NUM_KV_HEADS) + g
            np.testing.assert_allclose(outputs[h, g], query[3 * head : 3 * head + 3] @ x)
        np.testing.assert_allclose(outputs[h, -2], key[3 * h : 3 * h + 3] @ x)
        np.testing.assert_allclose(outputs[h, -1], value[3 * h : 3 * h + 3] @ x)
