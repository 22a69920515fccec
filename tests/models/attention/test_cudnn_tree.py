"""The calls that go to cuDNN, computed by XLA, against the plain masked form; and that they lower to cuDNN."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.batch import TreeBatch
from sage_jax.models.attention.cudnn_tree import STEP, attend_branches
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.tree import TreeBranches, TreeLayout, prefix_layout, tree_layout
from sage_jax.models.sage import tree_mask
from tests.support.attention_cases import gradients, random_heads, real_weights
from tests.support.tiny_sage import on_device, random_batch

SIZES = {"num_questions": 3, "num_answers": 4, "length": 100}


def plain(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend(queries, keys, values, tree_mask(batch.token_mask, batch.question_index, batch.answer_index))


def branches(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend_branches(queries, keys, values, TreeBranches(tree_layout(batch)), implementation="xla")


def with_holes(seed: int) -> TreeBatch:
    """Random trees, a row of padding among them, whose prefixes have tokens that nothing sees, such as unused facts."""
    batch = random_batch(seed, rows=4, padding_rows=1, **SIZES)
    mask = np.asarray(batch.token_mask).copy()
    mask[:, 1:3] = False
    return on_device(dataclasses.replace(batch, token_mask=mask))


@pytest.mark.parametrize(("seed", "heads"), [(0, (4, 2)), (1, (3, 3)), (2, (4, 1))])
def test_values_and_gradients_equal_those_of_masked_attention(seed: int, heads: tuple[int, int]) -> None:
    batch = with_holes(seed)
    given = random_heads(batch.token_mask, heads, 8, jnp.float32)
    weights = real_weights(batch.token_mask, given[0])
    (value, found), (wanted, expected) = (gradients(of, given, weights, batch) for of in (branches, plain))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    out = np.asarray(jax.jit(branches)(*given, batch))
    assert np.isfinite(out).all()


def test_a_prefix_alone_is_causal_attention_over_its_real_tokens() -> None:
    real = jnp.asarray(np.random.default_rng(4).random((3, 21)) < 0.7)
    given = random_heads(real, (4, 2), 8, jnp.float32)
    found = attend_branches(*given, TreeBranches(prefix_layout(real)), implementation="xla")
    expected = attend(*given, jnp.tril(jnp.ones((21, 21), bool)) & real[:, None])
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(expected)[real], atol=1e-5)


def test_narrow_inputs_give_outputs_of_their_dtype() -> None:
    batch = with_holes(3)
    given = random_heads(batch.token_mask, (4, 2), 8, jnp.bfloat16)
    out, real = branches(*given, batch), np.asarray(batch.token_mask)
    queries, keys, values = (x.astype(jnp.float32) for x in given)
    exact = np.asarray(plain(queries, keys, values, batch))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32)[real], exact[real], atol=0.05)


def layout_of(rows: int, prefix: int, questions: int, asked: int, answers: int, answer: int) -> tuple[TreeLayout, int]:
    """A layout of nothing but room, and its sequence's length."""
    length = prefix + questions * (asked + answers * answer)

    def of(dtype: Any, *shape: int) -> Any:
        return jnp.zeros((rows, *shape), dtype)

    slots = (questions, answers, answer)
    layout = TreeLayout(
        prefix_mask=of(jnp.bool_, prefix),
        question_slots=of(jnp.int32, questions, asked),
        question_mask=of(jnp.bool_, questions, asked),
        answer_slots=of(jnp.int32, *slots),
        answer_mask=of(jnp.bool_, *slots),
        slot=of(jnp.int32, length),
    )
    return layout, length


def lowered_for_cudnn(of: Callable[..., Any], *arguments: Any) -> str:
    return jax.jit(of).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def test_forward_and_backward_pass_are_two_calls_of_cudnn_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the 8B tree's shape. JAX asks the cuDNN beside it for its version, and here there is none: it is told one.
    That cuDNN then takes the calls, and what it computes, only a GPU can show.
    """
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))
    layout, length = layout_of(1, 1791, 5, 101, 4, 80)
    given = [jax.ShapeDtypeStruct((1, length, heads, 128), jnp.bfloat16) for heads in (32, 8, 8)]

    def summed(queries: Any, keys: Any, values: Any) -> jax.Array:
        out = attend_branches(queries, keys, values, TreeBranches(layout), implementation="cudnn")
        return jnp.sum(out, dtype=jnp.float32)

    program = lowered_for_cudnn(jax.grad(summed, argnums=(0, 1, 2)), *given)
    calls = [line for line in program.splitlines() if "custom_call @__cudnn$fmha" in line]
    assert sum("SoftmaxBackward(" in line for line in calls) == 2
    assert sum("Softmax(" in line for line in calls) == 2
    branch, prefix = -(-(101 + 320) // STEP) * STEP, -(-1791 // STEP) * STEP
    assert f"tensor<5x1x{branch}x{prefix + branch}xbf16>" in program
    assert f"{length}x{length}x" not in program
