"""`model.remat = auto`: the least that the backward pass must compute again to fit into a memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, Literal

from sage_jax.config import Config, ConfigError
from sage_jax.models.attention.select import Attention
from sage_jax.plan.abstract_step import TreeSize
from sage_jax.plan.memory import predict_memory, usable_bytes

Settled = Literal["none", "dots", "full"]
SETTINGS: Final[tuple[Settled, ...]] = ("none", "dots", "full")
"""Settings of `model.remat` but `auto`, in order of what is computed again."""


@dataclasses.dataclass(frozen=True)
class Remat:
    """A setting and why it was taken.

    Attributes:
      setting: The first that fits, else `full`; or what was given.
      peaks: Bytes that the stage is predicted to take on each device, of the settings up to that one.
      usable: Bytes that it may take.
    """

    setting: Settled
    peaks: Mapping[Settled, int] = dataclasses.field(default_factory=dict)
    usable: int = 0

    def __str__(self) -> str:
        if not self.peaks:
            return f"remat = {self.setting}"
        listed = ", ".join(f"{name} {peak / 1e9:.3g}" for name, peak in self.peaks.items())
        return f"remat = {self.setting} (auto: predicted GB of {self.usable / 1e9:.3g} on each device: {listed})"


def fitting_remat(
    config: Config, stage: str, usable: int, *, tree: TreeSize | None = None, attention: Attention | None = None
) -> Remat:
    """The first setting with which a stage fits on each of `plan.num_devices` devices.

    Args:
      usable: Bytes on one device that arrays may take.
      tree, attention: As of `predict_memory`.

    Raises:
      ConfigError: As `predict_memory`.
    """
    peaks: dict[Settled, int] = {}
    for setting in SETTINGS:
        peaks[setting] = predict_memory(with_remat(config, setting), stage, tree=tree, attention=attention).peak
        if peaks[setting] <= usable:
            return Remat(setting, peaks, usable)
    return Remat(SETTINGS[-1], peaks, usable)


def settled(config: Config, stage: str) -> tuple[Config, Settled]:
    """The config with the setting that `auto` is on devices of `plan`, and that setting; any other stays."""
    if config.model.remat != "auto":
        return config, config.model.remat
    try:
        setting = fitting_remat(config, stage, usable_bytes(config)).setting
    except ConfigError:  # batch and mesh do not fit together
        setting = "none"
    return with_remat(config, setting), setting


def with_remat(config: Config, setting: Settled) -> Config:
    """The config with that setting in place of its own."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=setting))
