"""Where arrays live: the mesh, parameter path -> logical axes, logical axis -> mesh axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sage_jax.config import ConfigError, MeshConfig

MESH_AXES: Final = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes. Parameters are split over `fsdp` along their width and over `tensor` along heads, hidden
# units or vocabulary; rows of a batch over `data` and `fsdp` together.
MESH_AXES_OF: Final[dict[str, tuple[str, ...]]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
    "none": (),
}

# Parameter path -> logical axes, one row for each parameter. Scanned layers lead with `layers`.
PARAMETER_AXES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (r"vit/patch_embed/kernel", ("none", "embed")),
    (r"vit/stem/convolutions/\d+/kernel", ("none", "none", "none", "embed")),
    (r"vit/stem/convolutions/\d+/norm/(scale|bias)|vit/stem/out/bias", ("none",)),
    (r"vit/stem/out/kernel", ("none", "embed")),
    (r"vit/(class_token|position_embedding)", ("none", "embed")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/attention/qkv/kernel", ("layers", "embed", "heads")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/attention/qkv/bias", ("layers", "heads")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/attention/out/kernel", ("layers", "heads", "embed")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/mlp/(up|gate)/kernel", ("layers", "embed", "mlp")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/mlp/(up|gate)/bias", ("layers", "mlp")),
    (r"(vit|decoder|fact_encoder/decoder)/blocks/mlp/down/kernel", ("layers", "mlp", "embed")),
    (
        r"(vit|decoder|fact_encoder/decoder)/blocks/.*(/scale|norm/bias|out/bias|down/bias|layer_scale)",
        ("layers", "none"),
    ),
    (r"(decoder|fact_encoder)(/decoder)?/embedding/embedding", ("vocab", "embed")),
    (r"(decoder|fact_encoder/decoder)/output/kernel", ("embed", "vocab")),
    (r"adapter/linear_1/kernel", ("none", "mlp")),
    (r"adapter/linear_1/bias", ("mlp",)),
    (r"adapter/linear_2/kernel", ("mlp", "embed")),
    (r"fusion/attention/(query|key|value)/kernel", ("embed", "heads")),
    (r"fusion/attention/(query|key|value)/bias", ("heads",)),
    (r"fusion/attention/out/kernel", ("heads", "embed")),
    (r"fusion/(residual|mark)/kernel", ("embed", "none")),
    (r"fusion/places", ("none", "embed")),
    (r"fusion/(head|(image|question)_head/linear)/kernel", ("embed", "none")),
    (r"vit/patch_embed/bias|adapter/linear_2/bias|fusion/(attention/out|head)/bias|fusion/difference", ("none",)),
    (r"(adapter|fusion|decoder|fact_encoder/decoder)/norm/(scale|bias)", ("none",)),
    (r"fusion/(image|question)_head/(norm/(scale|bias)|linear/bias)", ("none",)),
)


class ShardingError(ValueError):
    """A parameter that the table does not cover exactly once."""


def make_mesh(config: MeshConfig) -> Mesh:
    """Mesh of all devices with axes data, fsdp, tensor; an axis of -1 takes what the others leave.

    Raises:
      ConfigError: The axes do not multiply to the number of devices.
    """
    return jax.make_mesh(mesh_sizes(config, jax.device_count()), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Sizes of the axes data, fsdp and tensor on so many devices.

    Raises:
      ConfigError: They do not multiply to the number of devices.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) == 1:
        known = -int(sizes[0] * sizes[1] * sizes[2])
        if known > 0 and devices % known == 0:
            sizes[sizes.index(-1)] = devices // known
    product = sizes[0] * sizes[1] * sizes[2]
    if min(sizes) < 1 or product != devices:
        raise ConfigError(
            f"mesh: data = {config.data}, fsdp = {config.fsdp}, tensor = {config.tensor} do not make the {devices} "
            "devices there are; set one axis to -1 to take what the others leave"
        )
    return sizes[0], sizes[1], sizes[2]


def logical_axes(path: str) -> tuple[str, ...]:
    """Logical axes of a parameter. What LoRA adds to a layer (models/lora.py) has those of the layer's kernel.

    Raises:
      ShardingError: No row, or more than one, matches the path.
    """
    layer, _, name = path.rpartition("/")
    if name == "kernel_scale":
        return logical_axes(f"{layer}/kernel")
    if name in ("lora_a", "base_a"):
        return (*logical_axes(f"{layer}/kernel")[:-1], "none")
    if name in ("lora_b", "base_b"):
        *lead, _, columns = logical_axes(f"{layer}/kernel")
        return (*lead, "none", columns)
    rows = [axes for pattern, axes in PARAMETER_AXES if re.fullmatch(pattern, path)]
    if len(rows) != 1:
        raise ShardingError(
            f"parameter {path!r} matches {len(rows)} rows of sharding.PARAMETER_AXES; it must match one"
        )
    return rows[0]


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Partition of a parameter; an axis that its mesh axes do not divide stays whole."""
    axes = logical_axes(path)
    if len(axes) != len(shape):
        raise ShardingError(f"parameter {path!r} has {len(shape)} axes, its row in sharding.PARAMETER_AXES {len(axes)}")
    return PartitionSpec(*(_mesh_axes(axis, size, mesh) for axis, size in zip(axes, shape, strict=True)))


def param_shardings(params: dict[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Sharding of every parameter (arrays or shapes), by path."""
    return {path: NamedSharding(mesh, parameter_spec(path, leaf.shape, mesh)) for path, leaf in params.items()}


def opt_state_shardings(opt_state: Any, mesh: Mesh) -> Any:
    """Sharding of an optimizer state: moments as their parameters (found by the last key, a path), the rest whole."""

    def of(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = [key.key for key in key_path if isinstance(key, jax.tree_util.DictKey)]
        if keys and leaf.ndim and "/" in str(keys[-1]):
            return NamedSharding(mesh, parameter_spec(str(keys[-1]), leaf.shape, mesh))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, opt_state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES_OF["batch"]))


def activation_sharding(mesh: Mesh, axes: tuple[str, ...], sizes: dict[str, int]) -> NamedSharding:
    """Sharding by logical axes of what a compiled function gives out; axes after the last one named stay whole.

    Args:
      axes: Logical axis of each axis.
      sizes: Size of a logical axis, where its mesh axes may not divide it: it then stays whole.
    """
    spec = [_mesh_axes(axis, sizes.get(axis, 0), mesh) for axis in axes]  # 0: every number divides it
    return NamedSharding(mesh, PartitionSpec(*spec))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrains an activation to its logical axes; the identity where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh is None or mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*(_mesh_axes(axis, size, mesh) for axis, size in zip(axes, x.shape, strict=True)))
    )


def on_each_device(
    compute: Callable[..., jax.Array],
    arguments: tuple[Any, ...],
    axes: tuple[tuple[str, ...], ...],
    out_axes: tuple[str, ...],
) -> jax.Array:
    """`compute(*arguments)`, each device its own part: for kernels, which the partitioner cannot split.

    Without a mesh, or on one device, the call itself. An axis that its mesh axes do not divide, in one argument or
    another, stays whole in all, and each device computes all of it.

    Args:
      compute: Computes along the axes that are split as it does on all of them.
      arguments: Trees of arrays.
      axes: Logical axes of each argument's arrays; axes after the last one named stay whole.
      out_axes: Those of the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh is None or mesh.empty or mesh.size == 1:
        return compute(*arguments)
    sizes: dict[str, int] = {}
    for argument, names in zip(arguments, axes, strict=True):
        for leaf in jax.tree.leaves(argument):
            for name, size in zip(names, leaf.shape, strict=False):
                sizes[name] = math.gcd(sizes.get(name, 0), size)

    def spec(names: tuple[str, ...]) -> PartitionSpec:
        return PartitionSpec(*(_mesh_axes(name, sizes[name], mesh) for name in names))

    # No type of JAX's says yet that a kernel's result varies over a mesh axis as its arguments do: hence no check.
    split = jax.shard_map(compute, in_specs=tuple(map(spec, axes)), out_specs=spec(out_axes), check_vma=False)
    return split(*arguments)


def _mesh_axes(axis: str, size: int, mesh: Any) -> tuple[str, ...] | None:
    names = MESH_AXES_OF[axis]
    parts = 1
    for name in names:
        parts *= mesh.shape[name]
    return names if names and size % parts == 0 else None
