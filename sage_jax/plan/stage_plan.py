"""The plan of training stages: memory, arithmetic and communication, and what to change where they do not fit."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from sage_jax.config import Config, ConfigError
from sage_jax.data.trees.encode import pixel_form, tiles_per_image
from sage_jax.parameters import count, merge
from sage_jax.plan.abstract_step import AbstractStep, Shapes, TreeSize, abstract_step, stored_form, tree_size
from sage_jax.plan.flops import matmul_flops
from sage_jax.plan.memory import MemoryPlan, predict_memory, usable_bytes
from sage_jax.plan.recompute import Settled, settled
from sage_jax.plan.search import Change, find_changes
from sage_jax.plan.simulated import Compiled, compile_on_simulated_devices
from sage_jax.training.step import train_step


@dataclasses.dataclass(frozen=True)
class StoredBytes:
    """Disk that the ViT features of the training images take, all of them with all their tiles.

    Attributes:
      num_images: Distinct images; 0 = not known.
      image: Bytes of one.
      free: Bytes free on the disk of `data.cache_dir`, of the machine that plans.
    """

    num_images: int
    image: int
    free: int

    @property
    def total(self) -> int:
        return self.num_images * self.image


@dataclasses.dataclass(frozen=True)
class KeptBytes:
    """Host memory of a process for ViT features, of images with all their tiles, and what the ViT takes beside steps.

    Attributes:
      num_images: Distinct training images, all processes together; 0 = not known.
      image: Bytes of one.
      memory: Bytes of `data.vit_memory_mb`.
      image_flops: Operations of the ViT's matrix products on an image that is not kept.
    """

    num_images: int
    image: int
    memory: int
    image_flops: int

    @property
    def num_kept(self) -> int:
        """Images that the memory holds."""
        return self.memory // self.image


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What one training stage takes.

    Attributes:
      tree: Sizes of its trees.
      remat: What the backward pass computes again; what `auto` is there.
      num_trained, num_frozen: Parameters.
      memory: Memory on each device; None where batch and mesh do not fit together.
      fault: Why `memory` is None.
      usable: Bytes on each device that arrays may take.
      flops: Operations of a step's matrix products, all devices together.
      compiled: The compiler's view; None where it was not asked.
      changes: What to change where it does not fit, the first of each kind.
      stored: Disk that its ViT features take; None where they are not stored.
      kept: Memory for its ViT features; None where they are not kept. Operations of the ViT are then not in `flops`.
    """

    tree: TreeSize
    remat: Settled
    num_trained: int
    num_frozen: int
    memory: MemoryPlan | None
    fault: str
    usable: int
    flops: int
    compiled: Compiled | None
    changes: tuple[Change, ...]
    stored: StoredBytes | None = None
    kept: KeptBytes | None = None

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.memory.peak <= self.usable


def plan_stages(config: Config, say: Callable[[str], None]) -> dict[str, StagePlan]:
    """The plan of each of `plan.stages`.

    Raises:
      ConfigError: A stage's trees fit into no bucket, or the mesh is not `plan.num_devices`.
    """
    plans = {stage: plan_stage(config, stage) for stage in config.plan.stages}
    runnable = tuple(stage for stage, plan in plans.items() if plan.memory)
    if config.plan.compile and runnable:
        asked = dataclasses.replace(config, plan=dataclasses.replace(config.plan, stages=runnable))
        for stage, compiled in compile_on_simulated_devices(asked, say).items():
            plans[stage] = dataclasses.replace(plans[stage], compiled=compiled)
    return plans


def plan_stage(config: Config, stage: str) -> StagePlan:
    """The plan of a stage, without compiling."""
    config, remat = settled(config, stage)
    tree, step = tree_size(config, stage), abstract_step(config, stage)
    memory, fault = None, ""
    try:
        memory = predict_memory(config, stage)
    except ConfigError as error:
        fault = str(error)
    usable = usable_bytes(config)
    fits = memory is not None and memory.peak <= usable
    traced = functools.partial(
        train_step,
        graphdef=step.graphdef,
        optimizer=step.optimizer,
        objective=step.objective,
        accumulate=step.train.accumulate,
    )
    return StagePlan(
        tree=tree,
        remat=remat,
        num_trained=count(step.state.trainable),
        num_frozen=count(step.frozen),
        memory=memory,
        fault=fault,
        usable=usable,
        flops=matmul_flops(jax.make_jaxpr(traced)(step.state, step.frozen, step.batch)),
        compiled=None,
        changes=() if fits else tuple(find_changes(config, stage)),
        stored=_stored(config, stage),
        kept=_kept(config, stage, step),
    )


def _stored(config: Config, stage: str) -> StoredBytes | None:
    form = stored_form(config, stage)
    if form is None or config.data.vit_features != "disk":
        return None
    folder = Path(config.data.cache_dir).expanduser().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    image = tiles_per_image(config.model) * form.nbytes
    return StoredBytes(_num_images(config), image, shutil.disk_usage(there).free)


def _kept(config: Config, stage: str, step: AbstractStep) -> KeptBytes | None:
    form = stored_form(config, stage)
    if form is None or config.data.vit_features != "memory":
        return None
    num_tiles, pixels = tiles_per_image(config.model), pixel_form(config.model)
    image = jax.ShapeDtypeStruct((num_tiles, *pixels.shape), pixels.dtype)

    def features(params: Shapes, tiles: jax.Array) -> jax.Array:
        return merge(step.graphdef, params).vit_features(tiles)

    flops = matmul_flops(jax.make_jaxpr(features)({**step.state.trainable, **step.frozen}, image))
    return KeptBytes(_num_images(config), num_tiles * form.nbytes, config.data.vit_memory_mb * 10**6, flops)


def _num_images(config: Config) -> int:
    return config.plan.num_images or 2 * config.data.num_train
