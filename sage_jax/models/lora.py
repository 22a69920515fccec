"""LoRA over kernels that may be quantised: the layer, the structure of a model that has it, and its merge.

A layer has, beside or in place of its `kernel` (in, out) and `bias`, each with the leading layer axis of a stack:

    kernel        float32, bfloat16, int8, or uint8 with two 4-bit rows in each byte (in / 2, out)
    kernel_scale  float32 (groups, out), of int8 and 4-bit kernels: weight = scale * integer, one scale a group of rows
    base_a, base_b  adapters of earlier stages, side by side, their scale in base_b: they stay
    lora_a, lora_b  (in, rank) and (rank, out): they train
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Float, UInt8
from sage_jax.parameters import Module, Params, split

LAYERS: Final = re.compile(r"(vit|decoder)/blocks/(attention/(qkv|out)|mlp/(up|gate|down))|adapter/linear_[12]")
"""Layers that may have adapters, by path."""

TRAINED: Final = ("lora_a", "lora_b")
LOW_RANK: Final = ("base_a", "base_b", *TRAINED)
ADDED: Final = ("kernel_scale", *LOW_RANK)
"""Last parts of the paths that a plain model does not have."""


class LoraLinear(nnx.Module):
    """x (W + base_a base_b + scale * lora_a lora_b) + bias, of which the layer has what it is given."""

    def __init__(self, leaves: Mapping[str, Any], *, scale: float, dtype: jnp.dtype | None):
        """`leaves`: arrays or shapes by name, as the module's docstring lists them; `dtype` None = the input's."""
        for name, leaf in leaves.items():
            setattr(self, name, nnx.Param(leaf))
        self.names, self.scale, self.dtype = tuple(leaves), scale, dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The layer's output, in the compute dtype."""
        leaves = {name: getattr(self, name)[...] for name in self.names}
        x = x.astype(self.dtype or x.dtype)
        y = _frozen_product(x, leaves["kernel"], leaves.get("kernel_scale"))
        for a, b in _low_rank(leaves, self.scale):
            y = y + (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
        return y + leaves["bias"].astype(x.dtype) if "bias" in leaves else y


# The backward pass dequantises (or casts) again: what it would else keep for it is the whole model in wide numbers.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _frozen_product(x: Array, kernel: Array, kernel_scale: Array | None) -> Array:
    return x @ wide_kernel(kernel, kernel_scale).astype(x.dtype)


def _low_rank(leaves: Mapping[str, Array], scale: float) -> list[tuple[Array, Array]]:
    """The low-rank terms (A, B) of a layer, scale in B."""
    pairs = [(leaves["base_a"], leaves["base_b"])] if "base_a" in leaves else []
    # Scaled before the product, not after: a later stage keeps scale * B as it is and computes the same to the bit.
    return [*pairs, (leaves["lora_a"], scale * leaves["lora_b"])] if "lora_a" in leaves else pairs


def pack(rows: Array) -> UInt8[Array, "... H E"]:
    """Integers -8..7 (..., in, out) as bytes: row 2 i in the low half of row i, row 2 i + 1 in the high half."""
    pairs = rows.astype(jnp.uint8).reshape(*rows.shape[:-2], rows.shape[-2] // 2, 2, rows.shape[-1]) & 15
    return pairs[..., 0, :] | (pairs[..., 1, :] << 4)


def unpack(packed: UInt8[Array, "... H E"]) -> Array:
    """The inverse of `pack`, int8."""
    halves = jnp.stack([packed & 15, packed >> 4], axis=-2).astype(jnp.int8)
    return ((halves ^ 8) - 8).reshape(*packed.shape[:-2], -1, packed.shape[-1])


def wide_kernel(kernel: Array, kernel_scale: Array | None) -> Array:
    """The kernel in float: itself, or float32 from its integers and scales."""
    if kernel_scale is None:
        return kernel
    integers = unpack(kernel) if kernel.dtype == jnp.uint8 else kernel
    grouped = integers.astype(kernel_scale.dtype).reshape(*kernel_scale.shape[:-1], -1, integers.shape[-1])
    return (grouped * kernel_scale[..., None, :]).reshape(integers.shape)


def layers_of(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each layer that may have adapters holds: by layer, then by name."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in params.items():
        layer, _, name = path.rpartition("/")
        if LAYERS.fullmatch(layer):
            found.setdefault(layer, {})[name] = leaf
    return found


def is_plain(leaves: Mapping[str, Any]) -> bool:
    """Whether a layer is that of a plain model."""
    return not leaves.keys() & set(ADDED) and leaves["kernel"].dtype == jnp.float32


def structure_of(model: Module, params: Mapping[str, Any], *, scale: float = 1.0) -> nnx.GraphDef[Module]:
    """The structure for parameters that have adapters or quantised kernels.

    Args:
      model: A plain model of shapes; its layers are replaced.
      params: Parameters or their shapes; the plain model's and, by the names above, more.
      scale: Factor of lora_a lora_b.
    """
    for layer, leaves in layers_of(params).items():
        if not is_plain(leaves):
            *parents, name = layer.split("/")
            parent = functools.reduce(getattr, parents, model)
            setattr(parent, name, LoraLinear(leaves, scale=scale, dtype=getattr(parent, name).dtype))
    return split(model)[0]


def fold(params: Params, *, scale: float) -> Params:
    """The same model with its adapters among those that stay, as later stages start from it and evaluation reads it."""
    folded = {path: leaf for path, leaf in params.items() if not path.endswith(TRAINED)}
    for layer, leaves in layers_of(params).items():
        pairs = _low_rank(leaves, scale)
        if pairs:
            folded[f"{layer}/base_a"] = jnp.concatenate([a for a, _ in pairs], axis=-1)
            folded[f"{layer}/base_b"] = jnp.concatenate([b for _, b in pairs], axis=-2)
    return folded


def merge_adapters(params: Params) -> Params:
    """Makes folded parameters those of a plain model, layer by layer in place, so that no two layers are held twice."""
    groups = layers_of(params)
    for layer in list(groups):
        leaves = groups.pop(layer)
        if not is_plain(leaves):
            for name in leaves:
                del params[f"{layer}/{name}"]
            params.update({f"{layer}/{name}": leaf for name, leaf in _merged(leaves).items()})
    return params


def _merged(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """A folded layer as a plain one: its float32 kernel with the adapters added, and its bias."""
    kernel = wide_kernel(leaves["kernel"], leaves.get("kernel_scale")).astype(jnp.float32)
    for a, b in _low_rank(leaves, 1.0):
        kernel = kernel + jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return {**{name: leaf for name, leaf in leaves.items() if name not in ADDED}, "kernel": kernel}
