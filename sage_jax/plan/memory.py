"""Memory of a training stage on each device: exact where shapes and shardings decide, by formula for activations."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from sage_jax.config import Config, ConfigError
from sage_jax.data.trees.encode import TileForm, tiles_per_image
from sage_jax.data.trees.tree import Capacity, empty_batch
from sage_jax.features.encoder import TILES_ON_DEVICE
from sage_jax.models.attention.select import Attention, attention_of
from sage_jax.plan.abstract_step import (
    TreeSize,
    accelerator_model,
    planned_mesh,
    state_shapes,
    stored_form,
    tree_size,
    vocab_rows,
)
from sage_jax.plan.activations import LocalSizes, temporary_bytes
from sage_jax.plan.device_kinds import DEVICE_KINDS
from sage_jax.sharding import opt_state_shardings, param_shardings

BATCHES_ON_DEVICE = 2
"""The batch of the running step, and the next one (`train._batches_ahead`)."""


FEATURES_ON_DEVICE = 2
"""Batches whose ViT features are computed beside the steps and on their way to the host, where none was known."""


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Bytes on one device of what a step is called with, batch not counted; exact.

    Attributes:
      trained, frozen: Parameters.
      optimizer: Adam's moments, counters and the random key.
      gradients: Gradients of the trained parameters, float32, split as they are.
    """

    trained: int
    frozen: int
    optimizer: int
    gradients: int


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device while a stage trains.

    Attributes:
      state: Parameters and optimizer state.
      batches: Batches on the device.
      phases: Temporaries at the largest moment of each phase of the step, gradients included.
      gradients: Those of them that are gradients, in the largest phase.
    """

    state: StateBytes
    batches: int
    phases: dict[str, int]
    gradients: int

    @property
    def parameters(self) -> int:
        return self.state.trained + self.state.frozen

    @property
    def activations(self) -> int:
        """Temporaries of the largest phase but for gradients."""
        return max(self.phases.values()) - self.gradients

    @property
    def peak(self) -> int:
        return self.parameters + self.state.optimizer + self.batches + max(self.phases.values())


def predict_memory(
    config: Config, stage: str, *, tree: TreeSize | None = None, attention: Attention | None = None
) -> MemoryPlan:
    """Memory of a stage on each of `plan.num_devices` devices.

    Args:
      tree: Sizes of its trees; None = those that `plan` describes.
      attention: What the devices compute; None = what devices of `plan.device` do.

    Raises:
      ConfigError: Mesh, batch or buckets do not fit together, or a pattern of the stage matches nothing.
    """
    train, mesh = config.training(stage), planned_mesh(config)
    local = local_sizes(config, stage, tree=tree, attention=attention)
    state, tree, form = state_bytes(config, stage, mesh), local.tree, stored_form(config, stage)
    phases = temporary_bytes(local)
    largest = max(phases, key=lambda name: phases[name])
    held = {"vision": 0, "loss": 0, "backward": 1, "update": 1}[largest]
    held += train.accumulate > 1 and largest != "update"
    capacity = Capacity(tree.num_questions, tree.num_answers, config.data.num_references)
    sizes = {"model": local.model, "text": config.text, "pad_id": 0}
    row = empty_batch(1, capacity, tree.shape, **sizes, tile_form=form)
    batch = BATCHES_ON_DEVICE * sum(leaf.nbytes for leaf in jax.tree.leaves(row))
    if form and config.data.vit_features == "memory":  # of two more batches, on their way to the host
        batch += FEATURES_ON_DEVICE * (row.tiles.nbytes + row.reference_tiles.nbytes)
    return MemoryPlan(state, local.rows * train.accumulate * batch, phases, held * state.gradients)


def local_sizes(
    config: Config, stage: str, *, tree: TreeSize | None = None, attention: Attention | None = None
) -> LocalSizes:
    """What each of `plan.num_devices` devices computes of a stage's micro-batch; arguments as of `predict_memory`.

    Raises:
      ConfigError: Mesh, batch or buckets do not fit together, or a pattern of the stage matches nothing.
    """
    train, mesh, tree = config.training(stage), planned_mesh(config), tree or tree_size(config, stage)
    rows = local_rows(config, stage, mesh)
    state = state_bytes(config, stage, mesh)
    model = dataclasses.replace(accelerator_model(config.model), attention=attention or planned_attention(config))
    trainable, form = state_shapes(config, stage)[0].trainable, stored_form(config, stage)
    return LocalSizes(
        model=model,
        tree=tree,
        rows=rows,
        answer_tokens=config.text.max_answer_tokens,
        vocab_size=vocab_rows(config),
        tensor=mesh.shape["tensor"],
        gathered=mesh.shape["fsdp"] > 1,
        dtype_bytes=jnp.dtype(model.compute_dtype).itemsize,
        gradient_bytes=state.gradients,
        accumulates=train.accumulate > 1,
        trains_decoder="decoder/embedding/embedding" in trainable,
        vision_tiles=vision_tiles(config, rows, form),
    )


def vision_tiles(config: Config, rows: int, form: TileForm | None) -> int:
    """Tiles that the ViT runs on together on one device, in a step on so many rows or beside it."""
    tiles = rows * tiles_per_image(config.model)
    if form is None:  # test images and references
        return (1 + config.data.num_references) * tiles
    return min(tiles, TILES_ON_DEVICE) if config.data.vit_features == "memory" else 0


def usable_bytes(config: Config) -> int:
    """Bytes on one device that arrays may take."""
    plan = config.plan
    return int(plan.usable_share * 1e9 * (plan.device_memory_gb or DEVICE_KINDS[plan.device].memory_gb))


def planned_attention(config: Config) -> Attention:
    """The attention of the model on devices of `plan.device`.

    Raises:
      ConfigError: Its kernel does not run there.
    """
    return attention_of(config.model, DEVICE_KINDS[config.plan.device].backend)


def local_rows(config: Config, stage: str, mesh: AbstractMesh) -> int:
    """Rows of a micro-batch on one device.

    Raises:
      ConfigError: They are not a whole number.
    """
    train, parts = config.training(stage), mesh.shape["data"] * mesh.shape["fsdp"]
    rows, left = divmod(train.batch_size, train.accumulate * parts)
    if left or not rows:
        raise ConfigError(
            f"{stage}: batch_size = {train.batch_size} in {train.accumulate} micro-batches does not divide over the "
            f"{parts} devices of mesh axes data x fsdp: give fewer micro-batches ({stage}.accumulate), share a row "
            "among devices (mesh.tensor), or give a larger batch"
        )
    return rows


def state_bytes(config: Config, stage: str, mesh: AbstractMesh) -> StateBytes:
    """Bytes of parameters and optimizer state on one device, from shapes and the sharding table."""
    # Only what decides on shapes and shardings: plans of other settings find it computed.
    train = config.training(stage)
    key = dataclasses.replace(train, batch_size=1, accumulate=1, questions_per_image=0)
    model = dataclasses.replace(config.model, remat="none")
    kept = dataclasses.replace(config, model=model, **{stage: key})
    return _state_bytes(kept, stage, tuple(mesh.shape.items()))


@functools.lru_cache(maxsize=4096)
def _state_bytes(config: Config, stage: str, axes: tuple[tuple[str, int], ...]) -> StateBytes:
    mesh: Any = AbstractMesh(tuple(size for _, size in axes), tuple(name for name, _ in axes))
    state, frozen = state_shapes(config, stage)
    trainable = list(zip(state.trainable.values(), param_shardings(state.trainable, mesh).values(), strict=True))
    moments = zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(opt_state_shardings(state.opt_state, mesh)), strict=True
    )
    whole = (state.step, state.num_skipped, state.num_skipped_in_row)
    return StateBytes(
        trained=_local_bytes(trainable),
        frozen=_local_bytes(zip(frozen.values(), param_shardings(frozen, mesh).values(), strict=True)),
        optimizer=_local_bytes(moments) + sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in whole),
        gradients=sum(4 * math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in trainable),
    )


def _local_bytes(leaves: Iterable[tuple[Any, Any]]) -> int:
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf, sharding in leaves)
