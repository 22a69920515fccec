"""LoRA over plain and quantised kernels: the layer against numpy, and whole models before and after the merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.config import LoraConfig, ModelConfig
from sage_jax.models.adapter import Adapter
from sage_jax.models.decoder import Decoder
from sage_jax.models.lora import (
    ADDED,
    TRAINED,
    LoraLinear,
    fold,
    layers_of,
    merge_adapters,
    pack,
    structure_of,
    unpack,
    wide_kernel,
)
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.training.lora_params import kept_kernel, start_params
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import (
    PLACEHOLDERS,
    TINY,
    VOCAB_SIZE,
    on_device,
    random_batch,
    random_params,
    structure,
)

EVERYWHERE = LoraConfig(rank=3, alpha=2.0, targets=("decoder/", "adapter/"))
BASES = ("float32", "bfloat16", "int8", "int4")
BATCH = on_device(random_batch(5))


def with_base(base: Any) -> LoraConfig:
    return dataclasses.replace(EVERYWHERE, base=base)


class Answerer(nnx.Module):
    """Adapter and decoder of a Sage, under their paths: what compiles in a second."""

    def __init__(self, rngs: nnx.Rngs):
        dtype = jnp.dtype(jnp.float32)
        self.adapter = Adapter(16, 16, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(TINY.decoder, VOCAB_SIZE, dtype=dtype, remat="none", unroll=1, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits after tokens B S D that each see those before."""
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape[:2])
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (tokens.shape[0], length, length))
        return self.decoder.logits(self.decoder(self.adapter(tokens), positions, mask)[0])


def abstract_answerer() -> Answerer:
    return nnx.eval_shape(lambda: Answerer(nnx.Rngs(0)))


def abstract_sage(model: ModelConfig = TINY) -> Sage:
    return nnx.eval_shape(lambda: Sage(model, VOCAB_SIZE, PLACEHOLDERS, nnx.Rngs(0)))


def plain_params(seed: int = 0) -> Params:
    return random_params(split(abstract_answerer())[1], seed)


def trained(params: Params, seed: int = 1) -> Params:
    """The parameters with adapters that have moved from their start."""
    rng = np.random.default_rng(seed)
    moved = {path: rng.normal(size=leaf.shape) * 0.3 for path, leaf in params.items() if path.endswith(TRAINED)}
    return params | {path: jnp.asarray(values, jnp.float32) for path, values in moved.items()}


def logits(params: Params, lora: LoraConfig) -> np.ndarray:
    """Logits on random tokens."""
    tokens = jnp.asarray(np.random.default_rng(7).normal(size=(2, 5, 16)), jnp.float32)
    graphdef = structure_of(abstract_answerer(), params, scale=lora.scale)
    run = jax.jit(lambda params: merge(graphdef, params)(tokens), compiler_options=QUICK)
    return np.asarray(run(params))


def numpy_kernel(leaves: Mapping[str, Any]) -> np.ndarray:
    """The float64 weights that a layer's integers and scales stand for, written out from the format."""
    stored, scale = np.asarray(leaves["kernel"]), np.asarray(leaves["kernel_scale"], np.float64)
    if stored.dtype == np.uint8:
        rows = np.zeros((2 * stored.shape[0], stored.shape[1]), np.int64)
        rows[0::2], rows[1::2] = stored % 16, stored // 16
        stored = np.where(rows > 7, rows - 16, rows)
    return stored * np.repeat(scale, len(stored) // len(scale), axis=0)


def test_four_bit_integers_come_back_from_their_bytes():
    rows = np.random.default_rng(0).integers(-8, 8, (3, 10, 4)).astype(np.int8)
    packed = pack(jnp.asarray(rows))
    assert packed.dtype == jnp.uint8 and packed.shape == (3, 5, 4)
    np.testing.assert_array_equal(unpack(packed), rows)


@pytest.mark.parametrize(("base", "half_steps", "group"), [("int8", 127.5, 192), ("int4", 7.5, 64)])
def test_quantised_kernels_are_off_by_half_a_step_at_most_and_small(base: str, half_steps: float, group: int):
    rng = np.random.default_rng(2)
    kernel = rng.standard_t(3, (192, 40)).astype(np.float32)  # heavy tails, as weights have
    leaves = {path.rpartition("/")[2]: leaf for path, leaf in kept_kernel("x", jnp.asarray(kernel), base).items()}
    found = numpy_kernel(leaves)
    np.testing.assert_allclose(wide_kernel(leaves["kernel"], leaves["kernel_scale"]), found, rtol=1e-6)
    largest = np.abs(kernel.astype(np.float64)).reshape(-1, group, 40).max(axis=1)
    error = np.abs(found - kernel).reshape(-1, group, 40).max(axis=1)
    assert (error <= largest / half_steps / 2 * (1 + 1e-4)).all()  # float32 rounding of the quotient
    assert error.max() > largest.max() / half_steps / 8  # a format that is finer than it says would be another
    num_bytes = sum(np.asarray(leaf).nbytes for leaf in leaves.values())
    assert num_bytes <= kernel.nbytes / {"int8": 3.8, "int4": 7.0}[base]


@pytest.mark.parametrize("base", BASES)
def test_a_layer_computes_its_sum_as_numpy_does(base: str):
    rng = np.random.default_rng(3)
    shapes = {"bias": (10,), "base_a": (64, 2), "base_b": (2, 10), "lora_a": (64, 3), "lora_b": (3, 10)}
    leaves = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    kernel = jnp.asarray(rng.normal(size=(64, 10)), jnp.float32)
    leaves |= {path.rpartition("/")[2]: leaf for path, leaf in kept_kernel("x", kernel, base).items()}
    x = rng.normal(size=(5, 64)).astype(np.float32)
    wide = numpy_kernel(leaves) if base.startswith("int") else np.asarray(leaves["kernel"], np.float64)
    parts = {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
    weight = wide + parts["base_a"] @ parts["base_b"] + 1.7 * parts["lora_a"] @ parts["lora_b"]
    layer = LoraLinear(leaves, scale=1.7, dtype=jnp.dtype(jnp.float32))
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ weight + parts["bias"], rtol=2e-5, atol=2e-5)


def test_at_the_start_adapters_change_nothing():
    params = plain_params()
    before = logits(params, LoraConfig())
    started = start_params(dict(params), EVERYWHERE, seed=0)
    assert sum(path.endswith("lora_a") for path in started) == 5 + 2
    np.testing.assert_array_equal(logits(started, EVERYWHERE), before)
    assert np.abs(logits(trained(started), EVERYWHERE) - before).max() > 0.1


@pytest.mark.parametrize("base", ["float32", "int8", "int4"])
def test_merged_parameters_are_plain_and_give_the_same_logits(base: str):
    lora = with_base(base)
    params = trained(start_params(plain_params(), lora, seed=0))
    merged = merge_adapters(fold(params, scale=lora.scale))
    plain = plain_params()
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in merged.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in plain.items()
    }
    np.testing.assert_allclose(logits(merged, LoraConfig()), logits(params, lora), atol=1e-4)


@pytest.mark.parametrize("base", ["float32", "int4"])
def test_with_its_adapters_off_stage_2_is_stage_1_to_the_bit(base: str):
    lora = with_base(base)
    first = trained(start_params(plain_params(), lora, seed=0))
    stage_1 = logits(first, lora)
    later = dataclasses.replace(lora, rank=2, alpha=7.0, targets=("decoder/blocks/attention", "adapter/"))
    second = start_params(fold(first, scale=lora.scale), later, seed=1)
    for path, leaf in first.items():
        if path.endswith(("kernel", "kernel_scale")):
            np.testing.assert_array_equal(second[path], leaf, err_msg=path)  # never quantised twice
    np.testing.assert_array_equal(logits(second, later), stage_1)
    moved = trained(second, seed=2)
    stage_2 = logits(moved, later)
    assert np.abs(stage_2 - stage_1).max() > 0.1
    off = {path: leaf for path, leaf in moved.items() if not path.endswith(TRAINED)}
    np.testing.assert_array_equal(logits(off, later), stage_1)
    merged = merge_adapters(fold(moved, scale=later.scale))
    np.testing.assert_allclose(logits(merged, LoraConfig()), stage_2, atol=1e-4)


def test_another_base_or_fewer_parts_start_from_the_merged_stage():
    first = trained(start_params(plain_params(), EVERYWHERE, seed=0))
    merged = merge_adapters(fold(first, scale=EVERYWHERE.scale))
    for later in (with_base("int8"), LoraConfig(rank=2, base="float32"), LoraConfig()):
        second = start_params(fold(first, scale=EVERYWHERE.scale), later, seed=1)
        expected = start_params(dict(merged), later, seed=1)
        assert second.keys() == expected.keys() and not any(path.endswith("base_a") for path in second)
        for path in expected:
            np.testing.assert_array_equal(second[path], expected[path], err_msg=path)


def test_all_parts_of_a_sage_may_have_adapters_and_merge():
    lora = LoraConfig(rank=3, targets=("decoder/", "vit/", "adapter/"), base="int4")
    params = trained(start_params(random_params(structure()[1]), lora, seed=0))
    assert sum(path.endswith("lora_a") for path in params) == 5 + 4 + 2
    merged = merge_adapters(fold(params, scale=lora.scale))

    def hidden(params: Params) -> jax.Array:
        graphdef = structure_of(abstract_sage(), params, scale=lora.scale)
        return jax.jit(lambda params: merge(graphdef, params)(BATCH)[0], compiler_options=QUICK)(params)

    np.testing.assert_allclose(hidden(merged), hidden(params), atol=1e-4)


def test_only_layers_of_parts_with_adapters_are_quantised():
    lora = LoraConfig(rank=2, targets=("decoder/blocks/attention/",), base="int4")
    plain = random_params(structure()[1])
    params = start_params(dict(plain), lora, seed=0)
    for layer, leaves in layers_of(params).items():
        assert ("kernel_scale" in leaves) == layer.startswith("decoder/"), layer
        assert ("lora_a" in leaves) == layer.startswith("decoder/blocks/attention/"), layer
    rest = [path for path in plain if path.rpartition("/")[0] not in layers_of(plain)]
    assert {"decoder/embedding/embedding", "decoder/output/kernel", "fusion/attention/query/kernel"} < set(rest)
    for path in rest:
        assert params[path] is plain[path]


@pytest.mark.parametrize("base", ["bfloat16", "int4"])
def test_the_backward_pass_keeps_no_wide_kernels(base: Any):
    wide = dataclasses.replace(TINY, decoder=dataclasses.replace(TINY.decoder, embed_dim=64, mlp_dim=512, num_layers=3))
    lora = LoraConfig(rank=2, base=base)
    _, plain = structure(wide)
    shapes = jax.eval_shape(lambda: start_params({p: jnp.zeros(s.shape) for p, s in plain.items()}, lora, 0))
    graphdef = structure_of(abstract_sage(wide), shapes)

    def kept(params: Params) -> Any:
        trainable = {path: leaf for path, leaf in params.items() if path.endswith(TRAINED)}

        def run(trainable: Params) -> jax.Array:
            return merge(graphdef, params | trainable)(BATCH)[0]

        return jax.vjp(run, trainable)[1]

    kept_shapes = {leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(kept, shapes)) if leaf.dtype == jnp.float32}
    kernels = {tuple(plain[f"{layer}/kernel"].shape) for layer in layers_of(plain) if layer.startswith("decoder/")}
    assert kernels and not kernels & kept_shapes


def test_plain_models_have_none_of_the_added_names():
    assert not any(path.endswith(ADDED) for path in structure()[1])
