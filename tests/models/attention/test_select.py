"""One option picks the attention: what it resolves to, that a whole model computes the same, and on several devices."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, DecoderConfig, MeshConfig, PreferenceConfig
from sage_jax.models import sage
from sage_jax.models.attention.blocks import TreeBlocks, tree_blocks
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.pallas_tree import attend_blocks
from sage_jax.models.attention.select import Attention, attend_all, attention_of, gpu_of, takes_cudnn
from sage_jax.parameters import Params, merge, split
from sage_jax.plan.device_kinds import DEVICE_KINDS
from sage_jax.sharding import batch_sharding, make_mesh
from sage_jax.training.objectives import PreferenceObjective
from tests.support.attention_cases import Heads, random_heads, random_owners, random_row
from tests.support.tiny_sage import PLACEHOLDERS, TINY, VOCAB_SIZE, on_device, random_batch, random_params

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("backend", "resolved"),
    [("gpu", "pallas"), ("older gpu", "tree"), ("tpu", "splash"), ("cpu", "tree"), (None, "tree")],
)
def test_auto_takes_the_kernel_of_the_devices(backend: Any, resolved: str) -> None:
    assert attention_of(TINY, backend) == resolved
    assert attention_of(dataclasses.replace(TINY, attention="pallas"), "older gpu") == "pallas"
    for fixed in ("tree", "masked"):
        assert attention_of(dataclasses.replace(TINY, attention=fixed), backend) == fixed


@pytest.mark.parametrize(
    ("attention", "backend"),
    [("pallas", "tpu"), ("pallas", "cpu"), ("splash", "gpu"), ("splash", "cpu"), ("cudnn", "tpu"), ("cudnn", "cpu")],
)
def test_a_kernel_of_other_devices_is_refused_with_the_way_out(attention: Any, backend: Any) -> None:
    with pytest.raises(ConfigError, match=rf"model\.attention = '{attention}' .* {backend.upper()}s: set .* 'auto'"):
        attention_of(dataclasses.replace(TINY, attention=attention), backend)


def test_heads_that_cudnn_does_not_take_are_refused_before_anything_is_computed() -> None:
    fitting = DecoderConfig(num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, mlp_dim=24)
    model = dataclasses.replace(TINY, attention="cudnn", compute_dtype="auto", decoder=fitting)
    assert attention_of(model, "gpu") == attention_of(model, "older gpu") == "cudnn"
    for changes in ({"compute_dtype": "float32"}, {"decoder": TINY.decoder}):
        with pytest.raises(ConfigError, match=r"model\.attention = 'cudnn' takes heads .* set model\.attention to"):
            attention_of(dataclasses.replace(model, **changes), "gpu")


def test_models_load_without_what_kernels_are_written_in() -> None:
    """A jaxlib without GPU or TPU may not have it."""
    found = "any(name.startswith('jax.experimental.pallas') for name in sys.modules)"
    program = f"import sys, sage_jax.generation.responder, sage_jax.training.step; print({found})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_gpus_that_the_kernel_was_not_compiled_for_are_older_ones() -> None:
    kinds = {capability: gpu_of(capability) for capability in ("9.0", "10.0", "12.1", "8.9", "7.5", "gfx942", "")}
    assert [capability for capability, kind in kinds.items() if kind == "gpu"] == ["9.0", "10.0", "12.1"]
    assert {name for name, kind in DEVICE_KINDS.items() if kind.backend == "gpu"} == {"h100", "h200"}
    assert {kind.backend for name, kind in DEVICE_KINDS.items() if name.startswith("v")} == {"tpu"}


def loss_and_gradient(attention: Attention, monkeypatch: pytest.MonkeyPatch, batch: TreeBatch) -> tuple[Any, Params]:
    monkeypatch.setattr(sage, "attention_of", lambda config: attention)
    graphdef, shapes = split(nnx.eval_shape(lambda: sage.Sage(TINY, VOCAB_SIZE, PLACEHOLDERS, nnx.Rngs(0))))
    objective = PreferenceObjective(PreferenceConfig(beta=0.5, eta=0.3, sft_weight=0.5))

    def loss(params: Params) -> jax.Array:
        return objective(merge(graphdef, params), batch, objective.normalizers(batch))[0]

    return jax.jit(jax.value_and_grad(loss))(random_params(shapes))


def test_loss_and_gradient_of_a_whole_model_are_those_of_masked_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = on_device(random_batch(3, rows=2))
    wanted, expected = loss_and_gradient("masked", monkeypatch, batch)
    largest = max(float(np.abs(leaf).max()) for leaf in expected.values())
    for attention in ("pallas", "cudnn", "splash"):
        value, found = loss_and_gradient(attention, monkeypatch, batch)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        for path, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-5 * largest, err_msg=path)


def test_devices_compute_their_own_rows_and_heads_and_gather_none() -> None:
    rows = [random_row(seed, questions=2, answers=2, prefix=20, question=12, answer=9) for seed in range(4)]
    owners = random_owners(*rows, length=96)
    given, blocks = random_heads(owners[0], (4, 2), 8, jnp.float32), tree_blocks(*owners)

    def compute(given: Heads, blocks: TreeBlocks) -> tuple[jax.Array, Any]:
        def summed(given: Heads) -> tuple[jax.Array, jax.Array]:
            out = attend_blocks(*given, blocks, interpret=True)
            return jnp.sum(out**2), out

        (_, out), gradient = jax.value_and_grad(summed, has_aux=True)(given)
        return out, gradient

    expected = jax.jit(compute)(given, blocks)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split_heads = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp"), None, "tensor"))
    with jax.set_mesh(mesh):
        placed = jax.device_put((given, blocks), (split_heads, batch_sharding(mesh)))
        compiled = jax.jit(compute).lower(*placed).compile()
        found = compiled(*placed)
    assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text() or "")
    assert found[0].sharding.is_equivalent_to(split_heads, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)


def test_heads_that_do_not_divide_stay_whole_on_every_device() -> None:
    owners = random_owners(*[[(-1, -1)] * 30] * 4, length=40)
    given, blocks = random_heads(owners[0], (2, 1), 8, jnp.float32), tree_blocks(*owners)

    def gradient(given: Heads, blocks: TreeBlocks) -> Heads:
        def summed(given: Heads) -> jax.Array:
            return jnp.sum(attend_blocks(*given, blocks, interpret=True) ** 2)

        return jax.grad(summed)(given)

    expected = jax.jit(gradient)(given, blocks)
    with jax.set_mesh(make_mesh(MeshConfig(data=4, fsdp=1, tensor=2))):
        found = jax.jit(gradient)(given, blocks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)


def test_cudnn_takes_sixteen_bit_heads_of_the_published_vision_encoders() -> None:
    assert takes_cudnn(jnp.dtype(jnp.bfloat16), 64) and takes_cudnn(jnp.dtype(jnp.bfloat16), 128)
    assert not takes_cudnn(jnp.dtype(jnp.float32), 64) and not takes_cudnn(jnp.dtype(jnp.bfloat16), 20)
    queries, keys, values = random_heads(jnp.ones((1, 9), bool), (2, 2), 8, jnp.float32)
    np.testing.assert_array_equal(attend_all(queries, keys, values, "pallas"), attend(queries, keys, values))


def test_the_vision_encoders_attention_lowers_to_cudnn_at_its_odd_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX asks the cuDNN beside it for its version, and here there is none: it is told one. That cuDNN then takes the
    call, and what it computes, only a GPU can show.
    """
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))

    def summed(queries: Any, keys: Any, values: Any) -> jax.Array:
        return jnp.sum(attend_all(queries, keys, values, "pallas"), dtype=jnp.float32)

    given = [jax.ShapeDtypeStruct((2, 1025, 16, 64), jnp.bfloat16)] * 3
    traced = jax.jit(jax.grad(summed, argnums=(0, 1, 2))).trace(*given)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in program and "__cudnn$fmhaSoftmaxBackward" in program
