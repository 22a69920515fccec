"""Linear layers and norms against torch, and the layer scan against a plain loop."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sage_jax.models.layers import (
    LayerNorm,
    Linear,
    OutputMajorLinear,
    RmsNorm,
    layers_apart,
    output_major,
    scan_layers,
    stack_layers,
)
from sage_jax.parameters import merge, split


def filled(norm: Any, rng: np.random.Generator) -> tuple[Any, dict[str, np.ndarray]]:
    graphdef, params = split(norm)
    values = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in params.items()}
    return merge(graphdef, values), values


@pytest.mark.parametrize(("wide", "narrow"), [(5, 11), (11, 5)])
def test_linear_layers_and_their_gradients_equal_torch(wide: int, narrow: int) -> None:
    rng = np.random.default_rng(7)
    x, weights = rng.normal(size=(2, 3, wide)), rng.normal(size=(2, 3, narrow))
    kernel, bias = rng.normal(size=(wide, narrow)), rng.normal(size=narrow)
    graphdef, _ = split(Linear(wide, narrow, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))
    given = tuple(jnp.asarray(value, jnp.float32) for value in (x, kernel, bias))

    def loss(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(weights, jnp.float32) * merge(graphdef, {"kernel": kernel, "bias": bias})(x))

    theirs = [torch.tensor(value, requires_grad=True) for value in (x, kernel, bias)]
    expected = torch.sum(torch.tensor(weights) * (theirs[0] @ theirs[1] + theirs[2]))
    expected.backward()
    np.testing.assert_allclose(loss(*given), expected.item(), rtol=1e-5)
    for found, leaf in zip(jax.grad(loss, argnums=(0, 1, 2))(*given), theirs, strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(found, leaf.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, OutputMajorLinear.MOST_ROWS, OutputMajorLinear.MOST_ROWS + 1])
def test_a_turned_kernel_gives_the_same_layer(rows: int, bias: bool) -> None:
    rng = np.random.default_rng(rows)
    x = jnp.asarray(rng.normal(size=(rows, 1, 5)), jnp.bfloat16)
    linear = Linear(5, 11, use_bias=bias, dtype=jnp.float32, bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(1))
    turned = OutputMajorLinear(linear)
    assert turned.kernel.shape == (11, 5)
    expected = np.asarray(x, np.float64) @ np.asarray(linear.kernel[...], np.float64)
    if linear.bias is not None:
        expected = expected + np.asarray(linear.bias[...])
    found = jax.jit(lambda x: turned(x))(x)
    assert found.shape == (rows, 1, 11) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kernels_are_turned_in_all_layers_of_a_stack_apart_and_its_function_stays() -> None:
    layers = layers_apart(stack_layers(WideMlp, 2, nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16)), jnp.float32)
    expected = layers[1](layers[0](x))
    output_major(layers)
    shapes = {path: leaf.shape for path, leaf in split(layers)[1].items() if path.endswith("kernel")}
    turned = {f"{layer}/{name}/kernel": s for layer in (0, 1) for name, s in (("up", (256, 16)), ("down", (16, 256)))}
    assert shapes == turned
    np.testing.assert_allclose(layers[1](layers[0](x)), expected, atol=1e-5)


def test_norms_equal_torch_also_with_a_large_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(30.0, 1.0, (4, 9)).astype(np.float32)
    layer, values = filled(LayerNorm(9, eps=1e-3, rngs=nnx.Rngs(0)), rng)
    scale, bias = torch.tensor(values["scale"]), torch.tensor(values["bias"])
    expected = torch.nn.functional.layer_norm(torch.tensor(x), [9], scale, bias, 1e-3)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected.numpy(), atol=5e-5)
    rms, values = filled(RmsNorm(9, eps=1e-3, rngs=nnx.Rngs(0)), rng)
    expected = torch.nn.functional.rms_norm(torch.tensor(x), [9], torch.tensor(values["scale"]), 1e-3)
    np.testing.assert_allclose(rms(jnp.asarray(x)), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [LayerNorm, RmsNorm])
def test_norms_compute_bfloat16_in_float32(kind: Any) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(5.0, 1.0, (3, 257)), jnp.bfloat16)
    norm = kind(257, eps=1e-6, rngs=nnx.Rngs(0))
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm(x), norm(x.astype(jnp.float32)).astype(jnp.bfloat16))


class WideMlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.up, self.down = Linear(16, 256, rngs=rngs), Linear(256, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(jax.nn.gelu(self.up(x)))


@pytest.mark.parametrize("unroll", [1, 3, 6])
def test_rematerialisation_takes_less_memory_the_more_is_computed_again(unroll: int) -> None:
    graphdef, params = split(stack_layers(WideMlp, 6, nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((512, 16), jnp.float32)

    def loss(params: dict[str, jax.Array], x: jax.Array, remat: Literal["none", "dots", "full"]) -> jax.Array:
        blocks = merge(graphdef, params)
        return jnp.sum(scan_layers(blocks, lambda layer, x: layer(x), x, remat=remat, unroll=unroll) ** 2)

    def temporary(remat: str) -> int:
        found = jax.jit(jax.grad(loss), static_argnums=2).lower(params, x, remat).compile().memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes

    hidden = 512 * 256 * 4  # bytes of one layer's hidden activations
    assert temporary("none") - temporary("dots") > 4 * hidden  # no layer's GELU is kept
    assert temporary("dots") - temporary("full") > 2 * hidden  # nor what goes into it


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(5, 5, rngs=rngs)


def run_layer(layer: Layer, x: jax.Array) -> jax.Array:
    return jnp.tanh(layer.linear(x))


def test_layers_start_from_random_numbers_of_their_own() -> None:
    _, params = split(stack_layers(Layer, 3, nnx.Rngs(0)))
    kernels = np.asarray(params["linear/kernel"])
    assert kernels.shape == (3, 5, 5)
    assert len(np.unique(kernels)) == kernels.size


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("unroll", [1, 2, 0], ids=["scan", "pairs", "apart"])
def test_scanned_layers_and_their_gradients_equal_a_loop(remat: Literal["none", "dots", "full"], unroll: int) -> None:
    blocks = stack_layers(Layer, 3, nnx.Rngs(0))
    graphdef, params = split(blocks)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5)), jnp.float32)

    def scanned(params: dict[str, jax.Array]) -> jax.Array:
        layers = merge(graphdef, params) if unroll else layers_apart(merge(graphdef, params))
        return jnp.sum(scan_layers(layers, run_layer, x, remat=remat, unroll=max(unroll, 1)) ** 2)

    def looped(params: dict[str, jax.Array]) -> jax.Array:
        out = x
        for layer in range(3):
            out = jnp.tanh(out @ params["linear/kernel"][layer] + params["linear/bias"][layer])
        return jnp.sum(out**2)

    found, gradient = jax.jit(jax.value_and_grad(scanned))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(looped))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for path in params:
        np.testing.assert_allclose(gradient[path], expected_gradient[path], atol=1e-5)
