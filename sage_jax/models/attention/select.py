"""Which attention computes: one named option, resolved once, and the kernels behind one call."""

from __future__ import annotations

import re
from typing import Final, Literal

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float
from sage_jax.config import ConfigError, ModelConfig
from sage_jax.models.attention.blocks import TreeBlocks
from sage_jax.models.attention.masked import attend
from sage_jax.models.attention.tree import TreeBranches, TreeLayout, TreeSlots, attend_tree

Attention = Literal["tree", "masked", "pallas", "cudnn", "splash"]
"""`model.attention` without `auto`."""

Visibility = Bool[Array, "B S T"] | TreeLayout | TreeBlocks | TreeSlots | TreeBranches
"""What each token of a sequence sees, in the form that one of the kernels takes."""

Backend = Literal["gpu", "older gpu", "tpu", "cpu"]
"""Kinds of devices; `gpu` is one of NVIDIA's of compute capability 9.0 or more, which `pallas` is compiled for."""

_KERNELS: Final[dict[str, Attention]] = {"gpu": "pallas", "tpu": "splash"}
_RUN_ON: Final = {"pallas": ("gpu", "older gpu"), "cudnn": ("gpu", "older gpu"), "splash": ("tpu",)}
_FIRST_CAPABILITY: Final = 9.0


def attention_of(config: ModelConfig, backend: Backend | None = None) -> Attention:
    """The attention of a model; `auto` is `pallas` on recent GPUs, `splash` on TPU and `tree` elsewhere.

    Args:
      backend: Kind of the devices; None = of those of this process.

    Raises:
      ConfigError: The kernel does not run there, or does not take the model's heads.
    """
    backend = backend or _backend_here()
    if config.attention == "auto":
        return _KERNELS.get(backend, "tree")
    wanted = _RUN_ON.get(config.attention, (backend,))
    if backend not in wanted:
        raise ConfigError(
            f"model.attention = {config.attention!r} is a kernel for {wanted[0].upper()}s, and the devices here are "
            f"{backend.upper()}s: set model.attention to 'auto', which takes the kernel of the devices, or to 'tree'"
        )
    if config.attention == "cudnn":
        _require_cudnn_heads(config)
    return config.attention


def _require_cudnn_heads(config: ModelConfig) -> None:
    dtype, width = config.compute_dtype, config.decoder.width_of_head
    if not takes_cudnn(jnp.dtype("bfloat16" if dtype == "auto" else dtype), width):
        raise ConfigError(
            f"model.attention = 'cudnn' takes heads in bfloat16 whose width is a multiple of 8 and at most 128, and "
            f"model.compute_dtype = {dtype!r} with decoder heads of width {width} is not that: set model.attention to "
            "'auto' or 'tree'"
        )


def _backend_here() -> Backend:
    backend = jax.default_backend()
    if backend != "gpu":
        return "tpu" if backend == "tpu" else "cpu"
    return gpu_of(str(getattr(jax.devices()[0], "compute_capability", "")))


def gpu_of(capability: str) -> Backend:
    """The kind of a GPU by its compute capability, such as "9.0"; another vendor's, "gfx942", is older."""
    number = re.fullmatch(r"\d+\.\d+", capability)
    return "gpu" if number is not None and float(capability) >= _FIRST_CAPABILITY else "older gpu"


@jax.named_scope("attention")
def attend_visible(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    visibility: Visibility,
) -> Float[Array, "B S Y X"]:
    """Attention of a sequence over itself. On a CPU, where only tests come to one, kernels are interpreted.

    What a kernel is written in is imported where it runs: a jaxlib without GPU or TPU may not have it.
    """
    interpret = jax.default_backend() == "cpu"
    if isinstance(visibility, TreeBlocks):
        from sage_jax.models.attention.pallas_tree import attend_blocks

        return attend_blocks(queries, keys, values, visibility, interpret=interpret)
    if isinstance(visibility, TreeSlots):
        from sage_jax.models.attention.splash_tree import attend_slots

        return attend_slots(queries, keys, values, visibility, interpret=interpret)
    if isinstance(visibility, TreeBranches):
        from sage_jax.models.attention.cudnn_tree import attend_branches

        implementation = "xla" if interpret else "cudnn"
        return attend_branches(queries, keys, values, visibility, implementation=implementation)
    if isinstance(visibility, TreeLayout):
        return attend_tree(queries, keys, values, visibility)
    return attend(queries, keys, values, visibility)


@jax.named_scope("attention")
def attend_all(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S Y X"],
    values: Float[Array, "B S Y X"],
    attention: Attention,
) -> Float[Array, "B S Y X"]:
    """Attention of tokens that all see each other, such as patches: cuDNN's on GPU, splash on TPU, else XLA's."""
    if attention == "splash":
        from sage_jax.models.attention.splash_tree import attend_dense

        return attend_dense(queries, keys, values, interpret=jax.default_backend() == "cpu")
    if attention in ("pallas", "cudnn") and takes_cudnn(queries.dtype, queries.shape[-1]):
        return _attend_cudnn(queries, keys, values)
    return attend(queries, keys, values)


def _attend_cudnn(queries: Array, keys: Array, values: Array) -> Array:
    """cuDNN's attention; an odd length, which it has no gradient for, with a token more that nothing sees."""
    rows, length = queries.shape[:2]
    if length % 2 == 0:
        return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")
    padded = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (queries, keys, values))
    real = jnp.full(rows, length, jnp.int32)
    out = jax.nn.dot_product_attention(
        *padded, query_seq_lengths=real, key_value_seq_lengths=real, implementation="cudnn"
    )
    return out[:, :length]


def takes_cudnn(dtype: jnp.dtype, width: int) -> bool:
    """Whether cuDNN's attention takes such heads on any GPU that has it."""
    return dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128
