"""Compiles training steps for simulated devices: a process of its own, since their number is set before JAX starts."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax

from sage_jax.config import Config, ConfigError, from_config_dict
from sage_jax.plan.abstract_step import abstract_step
from sage_jax.plan.hlo import collectives, moved_by_kind
from sage_jax.plan.recompute import settled
from sage_jax.sharding import make_mesh
from sage_jax.training.step import jit_step

_PARTITIONED: Final = "spmd-partitioning"
"""Pass after which the program is one device's and still in the dtypes that the model was written in."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step on one of the simulated devices.

    Attributes:
      argument_bytes: State, frozen parameters and one batch.
      temporary_bytes: Peak of everything else. The CPU's compiler computes bfloat16 in float32, so this is more than an
        accelerator takes.
      moved_bytes: Bytes that a device sends in a step, by kind of collective.
      seconds: Of lowering and compiling.
    """

    argument_bytes: int
    temporary_bytes: int
    moved_bytes: dict[str, int]
    seconds: float


def compile_on_simulated_devices(config: Config, say: Callable[[str], None]) -> dict[str, Compiled]:
    """Compiles the steps of `plan.stages` for `plan.num_devices` devices that this machine pretends to have.

    Arguments are shapes: whatever the model's size, this takes about a minute a stage and two GB of memory.

    Raises:
      ConfigError: The process that compiles failed; the message has its last line.
    """
    source = str(Path(__file__).parents[2])
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={config.plan.num_devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH")))),
    }
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    environment.pop("SAGE_JAX_DISTRIBUTED", None)
    found = {}
    for stage in config.plan.stages:
        say(f"compiling {stage} for {config.plan.num_devices} simulated devices")
        asked = json.dumps({"config": dataclasses.asdict(settled(config, stage)[0]), "stage": stage})
        command = [sys.executable, "-m", "sage_jax.plan.simulated"]
        ended = subprocess.run(command, input=asked, env=environment, capture_output=True, text=True)
        if ended.returncode:
            last = (ended.stderr.strip() or "it gave no message").splitlines()[-1]
            raise ConfigError(
                f"{stage} cannot be compiled for {config.plan.num_devices} devices: {last} "
                "(--config.plan.compile=False plans without compiling)"
            )
        found[stage] = Compiled(**json.loads(ended.stdout.splitlines()[-1]))
    return found


def compile_step(config: Config, stage: str) -> Compiled:
    """Compiles the step of a stage for the devices of this process; nothing is run."""
    started = time.monotonic()
    mesh, step = make_mesh(config.mesh), abstract_step(config, stage)
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
        jitted = jit_step(step.state, mesh, step.graphdef, step.optimizer, step.objective, step.train.accumulate)
        options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": _PARTITIONED}
        compiled: Any = jitted.lower(*step.sharded(mesh)).compile(compiler_options=options)
        dumped = sorted(Path(folder).glob(f"*jit_train_step*after_{_PARTITIONED}*.txt"))
        text = dumped[-1].read_text(encoding="utf-8") if dumped else ""  # one device: nothing is partitioned
    memory = compiled.memory_analysis()
    return Compiled(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        moved_bytes=moved_by_kind(collectives(text, mesh.size)) if text else {},
        seconds=round(time.monotonic() - started, 1),
    )


if __name__ == "__main__":
    request = json.loads(sys.stdin.read())
    result = compile_step(from_config_dict(request["config"]), request["stage"])
    print(json.dumps(dataclasses.asdict(result)))
