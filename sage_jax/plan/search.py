"""What to change where a stage does not fit: settings are tried by the same prediction, the least costly first."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Final

from sage_jax.config import Config, ConfigError, LoraConfig, MeshConfig, ModelConfig
from sage_jax.plan.memory import predict_memory, usable_bytes
from sage_jax.plan.recompute import SETTINGS, settled
from sage_jax.sharding import mesh_sizes

MOST_DEVICES: Final = 4096
RELEASED_RANK: Final = 16
_BASES: Final = ("float32", "bfloat16", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class Change:
    """Settings with which a stage fits.

    Attributes:
      overrides: What to add to the command line; empty where it fits as it is.
      peak: Predicted bytes on each device.
      same_model: Whether the stage still computes the same, to rounding: only where and when is changed.
    """

    overrides: tuple[str, ...]
    peak: int
    same_model: bool


def find_changes(config: Config, stage: str) -> list[Change]:
    """Ways to make a stage fit, the least costly of each kind.

    First the devices as they are: recomputing more (`model.remat`), splitting parameters (`mesh.fsdp`), smaller
    micro-batches (`accumulate`), splitting heads (`mesh.tensor`), in this order of cost; then the fewest devices with
    which that is enough; then what changes the training: fewer questions of an image in one tree, LoRA, LoRA over a
    base in bfloat16, int8 or 4 bits. Empty where nothing of that is enough.
    """
    found = []
    same = _first_that_fits(config, stage, _same_training(config, stage), same_model=True)
    if same:
        return [same]
    devices = config.plan.num_devices
    while devices < MOST_DEVICES:
        devices *= 2
        plan = dataclasses.replace(config.plan, num_devices=devices)
        more = dataclasses.replace(config, plan=plan)
        change = _first_that_fits(more, stage, _same_training(more, stage), same_model=True, since=config)
        if change:
            found.append(change)
            break
    for other in _other_training(config, stage):
        change = _first_that_fits(other, stage, _same_training(other, stage), same_model=False, since=config)
        if change:
            found.append(change)
            break
    return found


def _first_that_fits(
    config: Config, stage: str, candidates: Iterator[Config], *, same_model: bool, since: Config | None = None
) -> Change | None:
    for candidate in candidates:
        try:
            peak = predict_memory(candidate, stage).peak
        except ConfigError:
            continue  # rows that do not divide, or a mesh that does not: not a setting that can run
        if peak <= usable_bytes(config):
            return Change(overrides(since or config, candidate, stage), peak, same_model)
    return None


def _same_training(config: Config, stage: str) -> Iterator[Config]:
    """Settings that compute the same, the least costly first."""
    train, devices = config.training(stage), config.plan.num_devices
    remats = SETTINGS[SETTINGS.index(settled(config, stage)[1]) :]
    tensors = [size for size in (1, 2, 4, 8, 16) if devices % size == 0]
    accumulates = [n for n in range(1, train.batch_size + 1) if train.batch_size % n == 0]
    for tensor, accumulate, remat in itertools.product(tensors, accumulates, remats):
        shared = devices // tensor
        meshes = [(shared // size, size, tensor) for size in range(1, shared + 1) if shared % size == 0]
        try:
            meshes.sort(key=lambda sizes: sizes != mesh_sizes(config.mesh, devices))  # rather leave it as it is
        except ConfigError:
            pass
        for data, fsdp, _ in meshes:
            model = dataclasses.replace(config.model, remat=remat)
            mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
            yield _with(config, stage, model=model, mesh=mesh, accumulate=accumulate)


def _other_training(config: Config, stage: str) -> Iterator[Config]:
    """Settings that train otherwise, the closest first."""
    train = config.training(stage)
    questions = min(train.questions_per_image or config.plan.num_questions, config.plan.num_questions)
    fewer = sorted({questions, (questions + 1) // 2, 1}, reverse=True)
    bases = _BASES[_BASES.index(train.lora.base) :]
    for count in fewer[1:]:
        yield _with(config, stage, questions_per_image=count)
    for count, base in itertools.product(fewer, bases):
        lora = LoraConfig(rank=train.lora.rank or RELEASED_RANK, alpha=train.lora.alpha, base=base)
        asked = train.questions_per_image if count == questions else count
        if lora != train.lora or asked != train.questions_per_image:
            yield _with(config, stage, lora=lora, questions_per_image=asked)


def _with(
    config: Config, stage: str, *, model: ModelConfig | None = None, mesh: MeshConfig | None = None, **train: Any
) -> Config:
    changed: dict[str, Any] = {stage: dataclasses.replace(config.training(stage), **train)}
    return dataclasses.replace(config, model=model or config.model, mesh=mesh or config.mesh, **changed)


def overrides(before: Config, after: Config, stage: str) -> tuple[str, ...]:
    """The overrides that make one config of another, of the settings that are searched."""
    mesh = _mesh_overrides(before.mesh, after.mesh, after.plan.num_devices)
    fields = [
        ("plan.num_devices", before.plan.num_devices, after.plan.num_devices),
        ("model.remat", before.model.remat, after.model.remat),
    ]
    old, new = before.training(stage), after.training(stage)
    for name in ("accumulate", "questions_per_image"):
        fields.append((f"{stage}.{name}", getattr(old, name), getattr(new, name)))
    for name in ("rank", "base"):
        fields.append((f"{stage}.lora.{name}", getattr(old.lora, name), getattr(new.lora, name)))
    return (*(f"--config.{name}={value}" for name, value_before, value in fields if value != value_before), *mesh)


def _mesh_overrides(before: MeshConfig, after: MeshConfig, num_devices: int) -> tuple[str, ...]:
    try:
        if mesh_sizes(before, num_devices) == mesh_sizes(after, num_devices):
            return ()
    except ConfigError:
        pass  # the mesh before does not fit the devices, so it has to change
    names = [field.name for field in dataclasses.fields(MeshConfig)]
    changed = [name for name in names if getattr(after, name) != getattr(before, name)]
    return tuple(f"--config.mesh.{name}={getattr(after, name)}" for name in changed)
