"""Steps compiled for devices that are not there, in a process of their own."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.plan.simulated import compile_on_simulated_devices, compile_step
from tests.support.tiny_plan import CONFIG

SMALL: Config = dataclasses.replace(
    CONFIG,
    sfe=dataclasses.replace(CONFIG.sfe, batch_size=2),
    mesh=dataclasses.replace(CONFIG.mesh, data=1, fsdp=2),
    plan=dataclasses.replace(CONFIG.plan, num_devices=2, stages=("sfe",)),
)


def test_another_process_compiles_for_as_many_devices_as_are_planned() -> None:
    said: list[str] = []
    (found,) = compile_on_simulated_devices(SMALL, said.append).values()
    assert said == ["compiling sfe for 2 simulated devices"]
    assert found.argument_bytes > 0 and found.temporary_bytes > 0 and found.seconds > 0
    assert sum(found.moved_bytes.values()) > 0  # parameters are gathered from both


def test_devices_with_the_whole_model_each_send_gradients_alone() -> None:
    mesh = dataclasses.replace(CONFIG.mesh, data=8, fsdp=1)
    alone = dataclasses.replace(CONFIG, mesh=mesh, plan=dataclasses.replace(CONFIG.plan, stages=("sfe",)))
    sharded = dataclasses.replace(alone, mesh=dataclasses.replace(mesh, data=1, fsdp=8))
    whole, parted = (compile_step(config, "sfe").moved_bytes for config in (alone, sharded))
    assert whole["all-reduce"] > 0 and whole.get("all-gather", 0) < 0.05 * parted["all-gather"]


def test_a_process_that_fails_gives_its_last_line_and_the_way_out() -> None:
    odd = dataclasses.replace(SMALL, mesh=dataclasses.replace(SMALL.mesh, data=3, fsdp=5))
    with pytest.raises(ConfigError, match=r"sfe cannot be compiled for 2 devices: .*--config.plan.compile=False"):
        compile_on_simulated_devices(odd, lambda line: None)
