"""The plan on screen and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sage_jax.config import Config
from sage_jax.plan.device_kinds import DEVICE_KINDS
from sage_jax.plan.recompute import with_remat
from sage_jax.plan.stage_plan import StagePlan
from sage_jax.plan.step_time import StepTime, step_time
from sage_jax.sharding import mesh_sizes

UTILISATION: Final = 0.4
"""Share of the arithmetic peak by which a step's time is told: what well-tuned training of transformers reaches."""


def print_plans(config: Config, plans: dict[str, StagePlan], console: Console | None = None) -> None:
    """Prints the plan as tables of at most 110 columns, and what to change below them."""
    console = console or Console(width=max(110, Console().width))
    console.print(_memory_table(config, plans), _work_table(config, plans), _time_table(config, plans))
    for stage, plan in plans.items():
        for line in (*_stored(stage, plan), *_kept(stage, plan), *_advice(stage, plan)):
            console.print(line, highlight=False, soft_wrap=True)


def plans_json(config: Config, plans: dict[str, StagePlan]) -> dict[str, Any]:
    """The plan in bytes, operations and settings, ready for JSON."""
    kind = DEVICE_KINDS[config.plan.device]
    stages = {}
    for stage, plan in plans.items():
        found: dict[str, Any] = dataclasses.asdict(plan) | {"fits": plan.fits}
        time = stage_time(config, stage, plan)
        found["time"] = None if time is None else dataclasses.asdict(time) | {"least": time.least}
        if plan.memory:
            found["memory"].update({name: getattr(plan.memory, name) for name in ("parameters", "activations", "peak")})
        if plan.stored:
            found["stored"]["total"] = plan.stored.total
        if plan.kept:
            found["kept"]["num_kept"] = plan.kept.num_kept
        stages[stage] = found
    data, fsdp, tensor = mesh_sizes(config.mesh, config.plan.num_devices)
    mesh = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return {"device": dataclasses.asdict(kind), "plan": dataclasses.asdict(config.plan), "mesh": mesh, "stages": stages}


def stage_time(config: Config, stage: str, plan: StagePlan) -> StepTime | None:
    """The least time of a stage's step; None where batch and mesh do not fit together."""
    if plan.memory is None:
        return None
    moved = None if plan.compiled is None else sum(plan.compiled.moved_bytes.values())
    return step_time(with_remat(config, plan.remat), stage, plan.flops, 0 if config.plan.num_devices == 1 else moved)


def _memory_table(config: Config, plans: dict[str, StagePlan]) -> Table:
    kind, plan = DEVICE_KINDS[config.plan.device], config.plan
    sizes = mesh_sizes(config.mesh, plan.num_devices)
    mesh = ", ".join(f"{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), sizes, strict=True))
    table = _table(f"Memory of each of {plan.num_devices} x {kind.title} ({mesh}), GB")
    for heading in (
        "Tree",
        "Remat",
        "Parameters",
        "Optimizer",
        "Gradients",
        "Batches",
        "Activations",
        "Peak",
        "Usable",
        "Fits",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage, one in plans.items():
        memory = one.memory
        if memory is None:
            table.add_row(stage, str(one.tree.shape.length), one.remat, *["–"] * 6, _gb(one.usable), "no")
            continue
        parts = (memory.parameters, memory.state.optimizer, memory.gradients, memory.batches, memory.activations)
        cells = (*map(_gb, parts), _gb(memory.peak), _gb(one.usable), "yes" if one.fits else "no")
        table.add_row(stage, str(one.tree.shape.length), one.remat, *cells)
    return table


def _work_table(config: Config, plans: dict[str, StagePlan]) -> Table:
    plan, peak = config.plan, DEVICE_KINDS[config.plan.device].peak_tflops * 1e12
    table = _table("A step")
    headings = ("Trained", "Frozen", "PFLOP", f"s at {UTILISATION:.0%}", "Sent, GB", "of that", "Compiler, GB")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "of that" else "right")
    for stage, one in plans.items():
        seconds = one.flops / plan.num_devices / peak / UTILISATION
        compiled = one.compiled
        kinds = "" if compiled is None else ", ".join(f"{kind} {_gb(n)}" for kind, n in compiled.moved_bytes.items())
        table.add_row(
            stage,
            f"{one.num_trained / 1e6:,.0f} M",
            f"{one.num_frozen / 1e6:,.0f} M",
            f"{one.flops / 1e15:.2f}",
            f"{seconds:.1f}",
            "–" if compiled is None else _gb(sum(compiled.moved_bytes.values())),
            kinds or "–",
            "–" if compiled is None else _gb(compiled.argument_bytes + compiled.temporary_bytes),
        )
    return table


def _time_table(config: Config, plans: dict[str, StagePlan]) -> Table:
    kind = DEVICE_KINDS[config.plan.device]
    table = _table(f"Least seconds of a step on {kind.title}")
    for heading in ("Products", "Memory", "Links", "of that hidden", "Together"):
        table.add_column(heading, justify="right")
    for stage, plan in plans.items():
        time = stage_time(config, stage, plan)
        if time is None:
            table.add_row(stage, *["–"] * 5)
            continue
        links = ("–", "–") if time.links is None else (f"{time.links:.3f}", f"{time.hidden:.0%}")
        table.add_row(stage, f"{time.compute:.3f}", f"{time.memory:.3f}", *links, f"{time.least:.3f}")
    return table


def _stored(stage: str, plan: StagePlan) -> list[str]:
    """The disk that stored ViT features take, as a line; none where they are not stored."""
    stored = plan.stored
    if stored is None:
        return []
    said = f"{stage}: stored ViT features take up to"
    if not stored.num_images:
        return [f"{said} {stored.image:,} bytes an image; give plan.num_images for their sum"]
    holds = "holds" if stored.total <= stored.free else "does not hold"
    disk = f"the disk of data.cache_dir, with {_gb(stored.free)} GB free, {holds} them"
    return [f"{said} {stored.total:,} bytes for {stored.num_images:,} images; {disk}"]


def _kept(stage: str, plan: StagePlan) -> list[str]:
    """What kept ViT features take and what they spare, as a line; none where they are not kept."""
    kept = plan.kept
    if kept is None:
        return []
    of = f" of {kept.num_images:,}" if kept.num_images else ""
    return [
        f"{stage}: the ViT runs beside the steps, {kept.image_flops / 1e12:,.2f} TFLOP an image, once while it is "
        f"kept; data.vit_memory_mb of each process holds {kept.num_kept:,}{of} images of up to {kept.image:,} bytes"
    ]


def _advice(stage: str, plan: StagePlan) -> list[str]:
    """What a stage needs, a line each."""
    if plan.fits:
        return []
    lines = [f"{stage} cannot run as it is: {plan.fault}" if plan.fault else f"{stage} does not fit."]
    for change in plan.changes:
        devices = any("plan.num_devices" in override for override in change.overrides)
        kind = "otherwise trained" if not change.same_model else "on more devices" if devices else "the same training"
        lines.append(f"  {kind}, {_gb(change.peak)} GB: {' '.join(change.overrides)}")
    if not plan.changes:
        lines.append("  no setting that was tried is enough: take devices with more memory")
    return lines


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("Stage", no_wrap=True)
    return table


def _gb(size: float) -> str:
    """Bytes in GB (10^9), to three digits or so."""
    value = size / 1e9
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
