"""Layers that several parts share: linear layers, norms in float32, and a stack of equal layers run by one scan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Float

Remat = Literal["auto", "none", "dots", "full"]


@jax.custom_vjp
def project(x: Float[Array, "... E"], kernel: Float[Array, "E O"]) -> Float[Array, "... O"]:
    """x kernel, with a kernel gradient that transposes the narrower of its two factors.

    JAX's own rule always transposes the outputs' gradient. On a CPU, XLA then computes all that makes up that gradient,
    such as the derivative of an activation function, column by column.
    """
    return _product(x, kernel)


def _product(x: Array, kernel: Array) -> Array:
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _project_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)  # not `project`: rematerialisation by policy sees products, not calls


def _project_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    of_x = jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())))
    rows = tuple(range(x.ndim - 1))
    if kernel.shape[0] <= kernel.shape[1]:
        return of_x, jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))
    return of_x, jax.lax.dot_general(gradient, x, ((rows, rows), ((), ()))).T


project.defvjp(_project_forward, _project_backward)


class Linear(nnx.Linear):
    """nnx.Linear by `project`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, dot_general=_project_as_dot, **kwargs)


def _project_as_dot(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`project` in the place of a dot_general of inputs' last and kernels' first axis, which is all nnx.Linear asks."""
    return project(x, kernel)


class OutputMajorLinear(nnx.Module):
    """A linear layer with its kernel as (out, in), for answering on a CPU.

    Decoding reads all weights for each token, and products of a few rows with a kernel that lies this way take less
    time (docs/benchmarks.md). More rows take the same either way.
    """

    MOST_ROWS = 16
    """Rows up to which the kernel stands on the left of the product."""

    def __init__(self, linear: nnx.Linear):
        """The same layer as `linear`, whose kernel, an array or a shape, is transposed."""
        self.kernel = nnx.Param(jnp.swapaxes(linear.kernel[...], -2, -1))
        self.bias = nnx.Param(linear.bias[...]) if linear.bias is not None else nnx.data(None)
        self.dtype = linear.dtype

    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... O"]:
        """The layer's output, in the compute dtype."""
        dtype = self.dtype or x.dtype
        kernel = self.kernel[...].astype(dtype)
        rows = x.reshape(-1, x.shape[-1]).astype(dtype)
        if rows.shape[0] <= self.MOST_ROWS:
            # The barrier keeps XLA from taking the transposition into the product, which turns its operands around.
            y = jax.lax.optimization_barrier(kernel @ rows.T).T
        else:
            y = jax.lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())))
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(dtype)


class RmsNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, computed in float32, returned in the input's dtype."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        del rngs  # ones need no random numbers; the argument keeps one signature for all layers
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The normalised input."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * scale + bias over the last axis, computed in float32, returned in the input's dtype."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The normalised input."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def stack_layers(create: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs) -> Any:
    """One module whose parameters carry a leading layer axis, each layer with its own random numbers."""

    @nnx.split_rngs(splits=num_layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def create_all(rngs: nnx.Rngs) -> nnx.Module:
        return create(rngs)

    return create_all(rngs)


def scan_layers(
    blocks: Any,
    step: Callable[[Any, Array], Array],
    x: Array,
    *,
    remat: Remat,
    unroll: int,
) -> Array:
    """Runs layers, `x = step(layer, x)`, and returns the last x.

    Args:
      blocks: A stack, or layers apart (`layers_apart`), which run one by one and keep all for a backward pass.
      remat: What the backward pass computes again: `none`, as `auto` that nobody has settled; `dots` keeps matrix
        products; `full` keeps layer inputs.
      unroll: Layers in one step of the loop. With `remat`, of at most half of them: without a loop XLA would see that
        what the backward pass computes again has been computed before, and keep it.
    """
    if isinstance(blocks, nnx.List):
        return functools.reduce(lambda x, layer: step(layer, x), blocks, x)
    graphdef, state = nnx.split(blocks)

    def body(carry: Array, layer_state: Any) -> tuple[Array, None]:
        return step(nnx.merge(graphdef, layer_state), carry), None

    if remat in ("dots", "full"):
        unroll = max(1, min(unroll, jax.tree.leaves(state)[0].shape[0] // 2))
    if remat == "full":
        body = jax.checkpoint(body, prevent_cse=False)
    elif remat == "dots":
        body = jax.checkpoint(body, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    return jax.lax.scan(body, x, state, unroll=unroll)[0]


def output_major(module: nnx.Module) -> None:
    """Turns the kernels of all of a module's linear layers, in place; those of other kinds stay."""
    for name, child in list(vars(module).items()):
        if isinstance(child, Linear):
            setattr(module, name, OutputMajorLinear(child))
        elif isinstance(child, nnx.Module):
            output_major(child)


def layers_apart(blocks: Any) -> Any:
    """The layers of a stack, a module each; layers that are apart already as they are."""
    if isinstance(blocks, nnx.List):
        return blocks
    graphdef, state = nnx.split(blocks)
    leaves, structure = jax.tree.flatten(state)
    return nnx.List(nnx.merge(graphdef, jax.tree.unflatten(structure, layer)) for layer in zip(*leaves, strict=True))
