"""Steps compiled for devices that are not there, in a process of their own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.plan.abstract_step import start_shapes_of, tree_size
from sage_jax.plan.hlo import COLLECTIVES
from sage_jax.plan.simulated import compile_on_simulated_devices
from tests.support.tiny_plan import CONFIG


def planned(config: Config, **fields: Any) -> Config:
    return dataclasses.replace(config, plan=dataclasses.replace(config.plan, **fields))


def test_communication_of_a_fully_sharded_step_is_the_theorys() -> None:
    """Fully sharded: each kernel is gathered for each pass that needs it, each gradient scattered once."""
    config = planned(CONFIG, stages=("edpo",))
    lines: list[str] = []
    found = compile_on_simulated_devices(config, lines.append)["edpo"]
    assert lines == ["compiling edpo for 8 simulated devices"]
    shapes = start_shapes_of(config, "edpo")
    kernels = {path: 4 * math.prod(leaf.shape) for path, leaf in shapes.items() if path.endswith("/kernel")}

    def size(*parts: str) -> int:
        return sum(n for path, n in kernels.items() if path.startswith(parts))

    others = 7 / 8
    scattered = size("decoder/")
    assert found.moved_bytes["reduce-scatter"] == pytest.approx(others * scattered, rel=0.1)
    gathered = 2 * size("decoder/blocks/") + size("vit/blocks/")
    assert others * gathered < found.moved_bytes["all-gather"] < 1.5 * others * (gathered + 2 * size("decoder/output"))
    tree = tree_size(config, "edpo")
    answers = config.edpo.batch_size * tree.num_questions * tree.num_answers * config.text.max_answer_tokens
    hidden = 4 * answers * config.model.decoder.embed_dim  # of all devices' answers, which no device needs
    assert found.moved_bytes["all-reduce"] < others * hidden
    assert set(found.moved_bytes) <= set(COLLECTIVES)


def test_a_compilation_that_fails_is_one_message() -> None:
    config = planned(CONFIG, num_devices=3, stages=("sfe",))
    with pytest.raises(ConfigError, match=r"sfe cannot be compiled for 3 devices: .*compile=False"):
        compile_on_simulated_devices(config, lambda line: None)
