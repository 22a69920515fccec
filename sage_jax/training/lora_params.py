"""Parameters that a stage with LoRA starts from: how its kernels are kept, and new adapters; models that only answer.

qwix quantises the kernels. Its own low-rank layers do not fit here: they are made while a model runs, on the module
that runs, which in a scan over stacked layers is a copy that ends with the step (models/lora.py has ours).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from sage_jax.config import ConfigError, LoraConfig, nearest
from sage_jax.models.lora import LAYERS, is_plain, layers_of, merge_adapters, pack
from sage_jax.parameters import Params

GROUP_ROWS: Final = 64
"""Rows of a 4-bit kernel that share their scales; fewer where the number of rows is no multiple."""


def adapted_layers(paths: Iterable[str], lora: LoraConfig) -> list[str]:
    """The layers that get adapters.

    Raises:
      ConfigError: A pattern is no regular expression or matches no layer that may have them.
    """
    if not lora.rank:
        return []
    layers = sorted({path.rpartition("/")[0] for path in paths if path.endswith("/kernel")})
    layers = [layer for layer in layers if LAYERS.fullmatch(layer)]
    found: set[str] = set()
    for target in lora.targets:
        try:
            matched = {layer for layer in layers if re.match(target, f"{layer}/kernel")}
        except re.error as error:
            raise ConfigError(f"lora.targets: {target!r} is no regular expression: {error}") from None
        if not matched:
            likely = [*dict.fromkeys(f"{layer.partition('/')[0]}/" for layer in layers), *layers]
            raise ConfigError(
                f"lora.targets: {target!r} matches no layer that may have adapters{nearest(target, likely)}"
            )
        found |= matched
    return [layer for layer in layers if layer in found]


def adapted_parts(paths: Iterable[str], lora: LoraConfig) -> set[str]:
    """The parts of the model that have adapters, such as `decoder`."""
    return {_part(layer) for layer in adapted_layers(paths, lora)}


def kept_kernel(layer: str, kernel: jax.Array, base: str) -> Params:
    """A float kernel (..., in, out) as `base` keeps it, by path: itself, or integers and their scales.

    No entry is off by more than half its scale, the largest magnitude of its group / 127.5 (int8) or / 7.5 (int4).

    Raises:
      ConfigError: An odd number of rows cannot be packed two a byte.
    """
    if base in ("float32", "bfloat16"):
        return {f"{layer}/kernel": kernel.astype(base)}
    import qwix  # here, so that LoRA over float kernels runs where it is not installed

    rows = kernel.ndim - 2
    each = [axis for axis in range(kernel.ndim) if axis != rows]
    if base == "int8":
        found = qwix.quantize(kernel, jnp.int8, channelwise_axes=each)
        return {f"{layer}/kernel": found.qvalue, f"{layer}/kernel_scale": found.scale}
    if kernel.shape[rows] % 2:
        raise ConfigError(f"lora.base = int4: {layer} has {kernel.shape[rows]} rows, an odd number; use int8")
    tile = {rows: math.gcd(kernel.shape[rows], GROUP_ROWS)}
    found = qwix.quantize(kernel, jnp.int4, channelwise_axes=each, tiled_axes=tile)
    return {f"{layer}/kernel": pack(found.qvalue.astype(jnp.int8)), f"{layer}/kernel_scale": found.scale}


def keep(path: str, leaf: jax.Array, base: str, parts: Iterable[str]) -> Params:
    """A plain parameter, by path, as a stage keeps it whose `parts` have adapters."""
    layer, _, name = path.rpartition("/")
    if name == "kernel" and LAYERS.fullmatch(layer) and _part(layer) in set(parts):
        return kept_kernel(layer, leaf, base)
    return {path: leaf}


def narrow(params: Params, dtype: str) -> Params:
    """The parameters as a model keeps them that only answers, in place, so that no two are held in two forms.

    Norms, biases and what a stage with LoRA kept in narrow form stay as they are.

    Args:
      params: Plain or folded.
      dtype: Of the other kernels and the embeddings: `float32`, `bfloat16`, or `int8`, which the blocks' and the
        adapter's kernels are, and the others then bfloat16.
    """
    if dtype == "float32":
        return params
    plain = {layer for layer, leaves in layers_of(params).items() if is_plain(leaves)}
    for path in list(params):
        layer, _, name = path.rpartition("/")
        if name == "kernel" and layer in plain:
            params.update(kept_kernel(layer, params.pop(path), dtype))
        elif name == "embedding" or (name == "kernel" and not LAYERS.fullmatch(layer)):
            params[path] = params.pop(path).astype(jnp.bfloat16)
    return params


def start_params(params: Params, lora: LoraConfig, seed: int) -> Params:
    """The parameters that a stage starts from; plain ones without LoRA.

    Where the stage before kept its layers as this one does (`keeps_adapters`), they stay as they are, its adapters
    frozen beside the new ones: quantising a merged kernel anew would change the model. Else they are merged first.
    New adapters change nothing: B is zero.

    Args:
      params: Folded parameters (models/lora.py) of the stage before, or plain ones; changed in place, so that no two
        layers are held in two forms.
      seed: Of the adapters' A, uniform in +-1 / sqrt(in).
    """
    layers, parts = adapted_layers(params, lora), adapted_parts(params, lora)
    kept = {layer: _base_of(leaves["kernel"]) for layer, leaves in layers_of(params).items() if not is_plain(leaves)}
    if not all(_part(layer) in parts and base == lora.base for layer, base in kept.items()):
        params = merge_adapters(params)
    for layer in list(layers_of(params)):
        if _part(layer) in parts and _base_of(params[f"{layer}/kernel"]) != lora.base:
            params.update(kept_kernel(layer, params.pop(f"{layer}/kernel"), lora.base))
    for layer in layers:
        params.update(_new_adapter(layer, params, lora, seed))
    return params


def keeps_adapters(paths: Iterable[str], before: LoraConfig, lora: LoraConfig) -> bool:
    """Whether a stage with `lora` keeps the adapters of the stage before: same base, all parts that had them."""
    paths = list(paths)
    same = before.rank > 0 and before.base == lora.base
    return same and adapted_parts(paths, before) <= adapted_parts(paths, lora)


def start_shapes(shapes: Mapping[str, Any], lora: LoraConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of `start_params`; nothing is computed."""
    return jax.eval_shape(lambda: start_params({p: jnp.zeros(s.shape, s.dtype) for p, s in shapes.items()}, lora, 0))


def _part(layer: str) -> str:
    return layer.split("/", 1)[0]


def _base_of(kernel: Any) -> str:
    """How a layer's kernel is kept, as `LoraConfig.base` calls it."""
    dtype = jnp.dtype(kernel.dtype).name
    return "int4" if dtype == "uint8" else dtype


def _new_adapter(layer: str, params: Mapping[str, Any], lora: LoraConfig, seed: int) -> Params:
    *lead, rows, columns = params[f"{layer}/kernel"].shape
    rows *= 2 if lora.base == "int4" else 1
    # Each layer draws from its own name, so that its numbers do not depend on which other layers have adapters.
    name = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:4], "little")
    key = jax.random.fold_in(jax.random.key(seed), np.uint32(name))
    a = jax.random.uniform(key, (*lead, rows, lora.rank), jnp.float32, -1.0, 1.0) * rows**-0.5
    return {f"{layer}/lora_a": a, f"{layer}/lora_b": jnp.zeros((*lead, lora.rank, columns), jnp.float32)}
