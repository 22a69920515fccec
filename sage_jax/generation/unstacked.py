"""A model whose layers each have arrays of their own, as decoding reads them."""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.axes import Array, Float
from sage_jax.models.layers import layers_apart, output_major
from sage_jax.models.lora import is_plain, layers_of
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import parameter_spec

_STACKS: Final = ("vit/blocks/", "decoder/blocks/")
_TURNED: Final = "decoder/blocks/"


def with_unstacked_layers(
    graphdef: nnx.GraphDef[Sage], params: Params, mesh: Mesh
) -> tuple[nnx.GraphDef[Sage], Params]:
    """The same model, each layer of its decoder in arrays of its own: `decoder/blocks/0/mlp/up/kernel`.

    Decoding reads all weights for each token. Out of arrays that hold all layers, each layer's are copied first. On a
    CPU the layers of the ViT are apart, too, and plain kernels of the decoder's lie as (out, in): products of few rows
    are faster so (`OutputMajorLinear`).

    Args:
      params: Used up, one parameter after the other, so that no two are held twice.
    """
    on_cpu = jax.default_backend() == "cpu"
    stacks = _STACKS if on_cpu else _STACKS[1:]
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    plain = {f"{layer}/kernel" for layer, leaves in layers_of(params).items() if is_plain(leaves)}
    turned = {path for path in plain if path.startswith(_TURNED)} if on_cpu else set()

    def restructured() -> Sage:
        model = merge(graphdef, {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()})
        for stack in stacks:
            part = getattr(model, stack.split("/")[0])
            part.blocks = layers_apart(part.blocks)
        if on_cpu:
            output_major(model.decoder.blocks)
        return model

    found: Params = {}
    for path in list(params):
        leaf = params.pop(path)
        stack = next((stack for stack in stacks if path.startswith(stack)), None)
        if stack is None:
            found[path] = leaf
            continue
        spec = parameter_spec(path, leaf.shape, mesh)[1:]
        sharding = NamedSharding(mesh, PartitionSpec(*(spec[::-1] if path in turned else spec)))
        cut = _cut_on_host if on_cpu and mesh.size == 1 else _cut_on_devices
        layers = cut(leaf, sharding, turned=path in turned)
        found.update({f"{stack}{index}/{path[len(stack) :]}": layer for index, layer in enumerate(layers)})
    return split(nnx.eval_shape(restructured))[0], found


def _cut_on_devices(stack: Array, sharding: NamedSharding, *, turned: bool) -> tuple[Array, ...]:
    """The layers of a stack, each in an array of its own, kernels as (out, in) where `turned` is set."""
    return jax.jit(_cut_transposed if turned else tuple, out_shardings=sharding)(stack)


def _cut_transposed(stack: Float[Array, "_ E O"]) -> tuple[Array, ...]:
    return tuple(stack.swapaxes(1, 2))


def _cut_on_host(stack: Array, sharding: NamedSharding, *, turned: bool) -> tuple[Array, ...]:
    """As `_cut_on_devices`, of a CPU alone: copying compiles nothing, where each kind of stack is a program there."""
    layers = np.asarray(stack)
    return tuple(jax.device_put(np.array(layer.T if turned else layer, order="C"), sharding) for layer in layers)
