"""What a training stage computes again on the devices of its run, by their memory (`model.remat = auto`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sage_jax.config import ConfigError
from sage_jax.data.records import Record
from sage_jax.data.stream.train_rows import capacity_of
from sage_jax.data.trees.encode import TreeUse
from sage_jax.data.trees.shapes import bucket_for, rounded
from sage_jax.models.attention.select import attention_of
from sage_jax.plan.abstract_step import TreeSize
from sage_jax.plan.recompute import Remat, fitting_remat
from sage_jax.process.device_memory import smallest_limit
from sage_jax.stages.run import Stage
from sage_jax.stages.text_check import largest_tree


def chosen_remat(stage: Stage, records: Sequence[Record]) -> Remat:
    """The config's setting, or that with which a stage fits into the memory of the run's devices.

    It is the same in all processes; `none` where a device does not tell its memory, as a CPU does not.

    Args:
      records: Those that train.
    """
    if stage.config.model.remat != "auto":
        return Remat(stage.config.model.remat)
    memory = smallest_limit()
    if memory is None:
        return Remat("none")
    run, train = stage.run, stage.config.training(stage.name)
    sizes = {"num_devices": run.mesh.devices.size, "vocab_size": run.weights.structure.vocab_size}
    config = dataclasses.replace(stage.config, plan=dataclasses.replace(stage.config.plan, **sizes))
    room = capacity_of(records, TreeUse.of(train), with_reference=train.reference_drop_rate < 1.0)
    needed = largest_tree(stage)
    shape = rounded(needed)
    if config.text.buckets:
        shape = dataclasses.replace(shape, length=bucket_for(needed.length, config.text) or shape.length)
    tree, usable = TreeSize(room.questions, room.answers, needed.length, shape), int(memory * config.plan.usable_share)
    try:
        return fitting_remat(config, stage.name, usable, tree=tree, attention=attention_of(config.model))
    except ConfigError:  # which training tells for itself
        return Remat("none")
