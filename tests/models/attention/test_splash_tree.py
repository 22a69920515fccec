"""The TPU's attention, interpreted, against the plain masked form; and that it compiles for a TPU."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.generation.prompt_scores import prompts_of
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.splash_tree import TreeSlotMask, attend_dense, attend_slots
from sage_jax.models.attention.tree import TreeLayout, TreeSlots, tree_layout
from sage_jax.models.sage import tree_mask
from sage_jax.sharding import batch_sharding, make_mesh
from tests.support.attention_cases import Heads, gradients, random_heads, real_weights
from tests.support.tiny_sage import on_device, random_batch

SIZES = {"num_questions": 3, "num_answers": 4, "length": 100}


def plain(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend(queries, keys, values, tree_mask(batch.token_mask, batch.question_index, batch.answer_index))


def kernel(queries: jax.Array, keys: jax.Array, values: jax.Array, batch: TreeBatch) -> jax.Array:
    return attend_slots(queries, keys, values, TreeSlots(tree_layout(batch)), interpret=True)


@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
def test_values_and_gradients_equal_those_of_masked_attention_in_float64(heads: tuple[int, int]) -> None:
    """The kernel computes in float32, whatever it is given: the reference is in float64."""
    batch = on_device(random_batch(3, rows=2, padding_rows=1, **SIZES))
    given = random_heads(batch.token_mask, heads, 8, jnp.float32)
    weights = real_weights(batch.token_mask, given[0])
    assert bool(jnp.isfinite(kernel(*given, batch)).all())
    value, found = gradients(kernel, given, weights, batch)
    with jax.enable_x64(True):
        wanted, expected = gradients(plain, jax.tree.map(lambda x: x.astype(jnp.float64), given), weights, batch)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_devices_compute_their_own_rows_and_heads_and_gather_none() -> None:
    batch = on_device(random_batch(3, rows=4, **SIZES))
    given = random_heads(batch.token_mask, (4, 2), 8, jnp.float32)
    mesh = make_mesh(MeshConfig(data=4, fsdp=1, tensor=2))
    split_heads = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp"), None, "tensor"))

    def tree(given: Heads, batch: TreeBatch) -> jax.Array:
        return kernel(*given, batch)

    def tiles(given: Heads, _: TreeBatch) -> jax.Array:
        queries, keys, values = (x[:, :70] for x in given)
        return attend_dense(queries, jnp.repeat(keys, 2, axis=2), jnp.repeat(values, 2, axis=2), interpret=True)

    for attention in (tree, tiles):

        def gradient(given: Heads, batch: TreeBatch, attention: Any = attention) -> Heads:
            return jax.grad(lambda given: jnp.sum(attention(given, batch) ** 2))(given)

        expected = jax.jit(gradient)(given, batch)
        with jax.set_mesh(mesh):
            placed = jax.device_put((given, batch), (split_heads, batch_sharding(mesh)))
            compiled = jax.jit(gradient).lower(*placed).compile()
            found = compiled(*placed)
        assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text() or "")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), found, expected)


def test_prompts_alone_give_what_masked_attention_gives() -> None:
    batch = prompts_of(on_device(random_batch(1, rows=2, **SIZES)))
    given = random_heads(batch.token_mask, (2, 1), 8, jnp.float32)
    asked = np.asarray(batch.token_mask & (batch.answer_index < 0))
    np.testing.assert_allclose(kernel(*given, batch)[asked], plain(*given, batch)[asked], atol=1e-5)


def test_attention_without_a_mask_of_a_length_that_is_no_multiple_of_a_block() -> None:
    queries, keys, values = random_heads(jnp.ones((2, 65), bool), (2, 2), 8, jnp.float32)
    weights = real_weights(jnp.ones((2, 65), bool), queries)
    given = queries, keys, values
    value, found = gradients(lambda *given: attend_dense(*given, interpret=True), given, weights)
    wanted, expected = gradients(attend, given, weights)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_slots_see_what_tokens_on_their_branch_would() -> None:
    mask = TreeSlotMask(
        num_prefix=5, num_questions=2, question_length=3, num_answers=2, answer_length=4, length=5 + 2 * (3 + 8) + 3
    )
    question = np.array([-1] * 5 + [0] * 3 + [1] * 3 + [0] * 8 + [1] * 8)
    answer = np.array([-1] * 11 + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    real = jnp.ones((1, 27), bool)
    expected = np.asarray(tree_mask(real, jnp.asarray(question[None]), jnp.asarray(answer[None])))[0]
    whole = mask[slice(None), slice(None)]
    np.testing.assert_array_equal(whole[:27, :27], expected)
    np.testing.assert_array_equal(whole[27:], np.pad(np.tril(np.ones((3, 3), bool)), ((0, 0), (27, 0))))
    np.testing.assert_array_equal(mask[slice(8, 20), slice(3, 9)], whole[8:20, 3:9])


@pytest.mark.parametrize(("heads", "width"), [((32, 8), 128), ((14, 2), 64)], ids=["8b", "1b"])
def test_forward_and_backward_pass_compile_for_a_tpu(heads: tuple[int, int], width: int) -> None:
    rows, prefix, questions, answers, asked, answered = 2, 512, 3, 4, 64, 40
    length = prefix + questions * (asked + answers * answered)

    def array(*shape: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    layout = TreeLayout(
        *(
            jnp.zeros((rows, *shape), dtype)
            for shape, dtype in (
                ((prefix,), bool),
                ((questions, asked), jnp.int32),
                ((questions, asked), bool),
                ((questions, answers, answered), jnp.int32),
                ((questions, answers, answered), bool),
                ((length,), jnp.int32),
            )
        )
    )

    def summed(queries: Any, keys: Any, values: Any) -> jax.Array:
        return jnp.sum(attend_slots(queries, keys, values, TreeSlots(layout), interpret=False), dtype=jnp.float32)

    given = [array(length, n, width, dtype=jnp.bfloat16) for n in (heads[0], heads[1], heads[1])]
    program = jax.export.export(jax.jit(jax.grad(summed, argnums=(0, 1, 2))), platforms=["tpu"])(*given).mlir_module()
    assert program.count("@tpu_custom_call(") == 3


def test_the_vision_encoders_attention_compiles_for_a_tpu() -> None:
    def summed(queries: Any, keys: Any, values: Any) -> jax.Array:
        return jnp.sum(attend_dense(queries, keys, values, interpret=False), dtype=jnp.float32)

    given = [jax.ShapeDtypeStruct((2, 1025, 16, 64), jnp.bfloat16)] * 3
    program = jax.export.export(jax.jit(jax.grad(summed, argnums=(0, 1, 2))), platforms=["tpu"])(*given).mlir_module()
    assert program.count("@tpu_custom_call(") == 3
