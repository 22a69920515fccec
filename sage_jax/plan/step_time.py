"""The least time of a step by what it computes, moves in memory and sends, at the peaks of data sheets."""

from __future__ import annotations

import dataclasses

from sage_jax.config import Config
from sage_jax.plan.abstract_step import planned_mesh
from sage_jax.plan.activations import LocalSizes, kept_bytes, layer_parameters, output_bytes
from sage_jax.plan.device_kinds import DEVICE_KINDS
from sage_jax.plan.memory import local_sizes, state_bytes


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one device, each as if it did nothing else.

    Attributes:
      compute: Matrix products, recomputation included, at the arithmetic peak.
      memory: Weights, kept activations, gradients and optimizer state at the memory's bandwidth.
      links: What it sends; None where the step was not compiled.
      exposed: Of `links`, what cannot run beside products: the first layer's share, and what takes longer than they do.
    """

    compute: float
    memory: float
    links: float | None
    exposed: float

    @property
    def hidden(self) -> float:
        """Share of `links` that products hide."""
        return 1.0 - self.exposed / self.links if self.links else 1.0

    @property
    def least(self) -> float:
        """Seconds of a step that reaches every peak."""
        return max(self.compute, self.memory) + self.exposed


def step_time(config: Config, stage: str, flops: int, moved_bytes: int | None) -> StepTime:
    """The least time of a stage's step.

    Args:
      flops: Operations of its matrix products, all devices together.
      moved_bytes: What a device sends; None = not known.

    Raises:
      ConfigError: Batch and mesh do not fit together.
    """
    kind, devices = DEVICE_KINDS[config.plan.device], config.plan.num_devices
    compute = flops / devices / (kind.peak_tflops * 1e12)
    memory = memory_traffic(config, stage) / (kind.memory_tb_s * 1e12)
    if moved_bytes is None:
        return StepTime(compute, memory, None, 0.0)
    links = moved_bytes / kind.link_bytes(devices)
    first = links / (config.model.decoder.num_layers + 1)
    return StepTime(compute, memory, links, max(first, links - compute) if links else 0.0)


def memory_traffic(config: Config, stage: str) -> int:
    """Bytes that a step reads and writes in a device's memory, at least.

    Of each micro-batch: the decoder's kernels in the dtype of activations, read by the forward and the backward pass,
    and once more where layers are computed again; what the forward pass keeps, written and read. Of the step:
    gradients, written and read for each micro-batch and read by the update, and parameters and moments, read and
    written.
    """
    train, local = config.training(stage), local_sizes(config, stage)
    state = state_bytes(config, stage, planned_mesh(config))
    passes = 2 if config.model.remat in ("none", "auto") else 3
    micro_batch = passes * _kernel_bytes(local) + 2 * kept_bytes(local) + 2 * state.gradients
    return train.accumulate * micro_batch + state.gradients + 2 * (state.trained + state.optimizer)


def _kernel_bytes(local: LocalSizes) -> int:
    layers = local.model.decoder.num_layers * layer_parameters(local) * local.dtype_bytes
    return layers + output_bytes(local)
