"""The least time of a step, against what its parts take by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sage_jax.config import Config, MeshConfig
from sage_jax.plan.abstract_step import abstract_step
from sage_jax.plan.device_kinds import DEVICE_KINDS, NETWORK_GB_S, NODE_DEVICES
from sage_jax.plan.step_time import StepTime, memory_traffic, step_time
from tests.support.tiny_plan import CONFIG


def on(devices: int, **model: Any) -> Config:
    plan = dataclasses.replace(CONFIG.plan, num_devices=devices, device="h200")
    return dataclasses.replace(
        CONFIG, plan=plan, mesh=MeshConfig(data=devices), model=dataclasses.replace(CONFIG.model, **model)
    )


def test_products_and_links_are_held_against_the_data_sheet() -> None:
    config = on(8)
    found = step_time(config, "sfe", flops=int(8 * 989e12 * 2.0), moved_bytes=int(450e9 * 0.5))
    assert found.compute == pytest.approx(2.0) and found.links == pytest.approx(0.5)
    assert found.exposed == pytest.approx(0.5 / (CONFIG.model.decoder.num_layers + 1))
    assert found.hidden == pytest.approx(1 - 1 / 5) and found.least == pytest.approx(2.0 + found.exposed)
    slow = step_time(config, "sfe", flops=int(8 * 989e12 * 2.0), moved_bytes=int(450e9 * 3.0))
    assert slow.exposed == pytest.approx(1.0) and slow.least == pytest.approx(3.0)


def test_a_step_that_was_not_compiled_or_sends_nothing_has_no_exposed_part() -> None:
    assert step_time(on(8), "sfe", 1, None).links is None
    alone = step_time(on(1), "sfe", 1, 0)
    assert (alone.links, alone.exposed, alone.hidden) == (0.0, 0.0, 1.0)
    assert StepTime(1.0, 3.0, 0.0, 0.0).least == 3.0


def test_the_memorys_traffic_holds_each_part_once_for_each_use() -> None:
    """Counted over the shapes of the state, of a model that keeps its layers' inputs alone."""
    config = on(1)
    step = abstract_step(config, "sfe")
    trained = sum(leaf.size for leaf in step.state.trainable.values())
    layers = config.model.decoder.num_layers
    of_layers = {path: leaf for path, leaf in step.state.trainable.items() if path.startswith("decoder/blocks/")}
    kernels = sum(leaf.size for path, leaf in of_layers.items() if path.endswith("kernel"))
    rows, length = config.sfe.batch_size, step.tree.shape.length
    kept = 4 * rows * length * config.model.decoder.embed_dim * layers
    state = 4 * trained * (2 + 1 + 2 + 4)  # gradients written, read, read; parameters; two moments, read and written
    assert memory_traffic(config, "sfe") == pytest.approx(3 * 4 * kernels + 2 * kept + state, rel=1e-3)
    more = dataclasses.replace(config, sfe=dataclasses.replace(config.sfe, accumulate=2))
    extra = memory_traffic(more, "sfe") - memory_traffic(config, "sfe")
    assert extra == pytest.approx(3 * 4 * kernels + 2 * 4 * trained, rel=1e-3)


def test_nodes_are_joined_by_their_network() -> None:
    kind = DEVICE_KINDS["h200"]
    assert kind.link_bytes(8) == 450e9 and kind.link_bytes(64) == NODE_DEVICES * NETWORK_GB_S * 1e9
    assert DEVICE_KINDS["l40s"].link_bytes(64) == DEVICE_KINDS["l40s"].link_bytes(8) == 32e9
    assert DEVICE_KINDS["v5e"].link_bytes(256) == DEVICE_KINDS["v5e"].link_bytes(8)
