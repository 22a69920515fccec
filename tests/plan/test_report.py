"""A plan on screen and as JSON, from figures that are given."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from sage_jax.config import Config
from sage_jax.plan.abstract_step import tree_size
from sage_jax.plan.memory import MemoryPlan, predict_memory, usable_bytes
from sage_jax.plan.report import UTILISATION, plans_json, print_plans
from sage_jax.plan.simulated import Compiled
from sage_jax.plan.stage_plan import StagePlan
from tests.support.tiny_plan import CONFIG

COMPILED = Compiled(4_000_000_000, 6_500_000_000, {"all-gather": 2_000_000_000, "all-reduce": 500_000_000}, 12.0)


def plan(**changes: Any) -> StagePlan:
    memory: MemoryPlan = predict_memory(CONFIG, "sfe")
    known: dict[str, Any] = {field.name: None for field in dataclasses.fields(StagePlan)}
    given = {
        "tree": tree_size(CONFIG, "sfe"),
        "memory": memory,
        "usable": usable_bytes(CONFIG),
        "num_trained": 3_000_000,
        "num_frozen": 1_234_000_000,
        "flops": 8 * 989e12 * UTILISATION * 2.5,
        "fault": "",
        "changes": (),
    }
    return StagePlan(**known | given | changes)


def printed(config: Config, plans: dict[str, StagePlan]) -> str:
    said = io.StringIO()
    print_plans(config, plans, Console(file=said, width=160))
    return said.getvalue()


def test_a_step_takes_its_operations_over_what_the_devices_reach() -> None:
    row = next(line for line in printed(CONFIG, {"sfe": plan()}).splitlines() if "1,234 M" in line)
    assert row.split()[:6] == ["sfe", "3", "M", "1,234", "M", f"{plan().flops / 1e15:.2f}"]
    assert "2.5" in row.split()  # seconds, on 8 H100 at 40 % of 989 TFLOP/s


def test_what_the_compiler_said_stands_beside() -> None:
    said = printed(CONFIG, {"sfe": plan(compiled=COMPILED)})
    assert "all-gather 2.00, all-reduce 0.50" in said and "10.5" in said and "2.50" in said


def test_the_least_time_of_a_step_is_told_with_the_share_of_links_that_is_hidden() -> None:
    """2.5 GB over 450 GB/s on 8 H100, beside a second of products at their peak."""
    said = printed(CONFIG, {"sfe": plan(compiled=COMPILED), "edpo": plan(memory=None, fault="no bucket holds it")})
    rows = [line.split() for line in said.split("Least seconds of a step on NVIDIA H100 SXM")[1].splitlines()]
    (row,) = [row for row in rows if row[:1] == ["sfe"] and "%" in row[4]]
    assert (row[1], row[3], row[4]) == ("1.000", "0.006", "80%")  # of four layers and an output layer, the first is not
    assert ["edpo", *["–"] * 5] in rows
    stages = plans_json(CONFIG, {"sfe": plan(compiled=COMPILED)})["stages"]
    assert stages["sfe"]["time"]["least"] > stages["sfe"]["time"]["compute"] == pytest.approx(1.0)


def test_a_stage_that_cannot_run_says_why_and_one_that_does_not_fit_what_to_change() -> None:
    said = printed(CONFIG, {"sfe": plan(memory=None, fault="no bucket holds it")})
    assert "sfe cannot run as it is: no bucket holds it" in said and said.count("–") >= 6
    said = printed(CONFIG, {"sfe": plan(usable=1)})
    assert "sfe does not fit." in said and "no setting that was tried is enough" in said


@pytest.mark.parametrize("compiled", [None, COMPILED])
def test_the_json_has_the_same_figures(compiled: Compiled | None) -> None:
    one = plan(compiled=compiled)
    found = json.loads(json.dumps(plans_json(CONFIG, {"sfe": one})))
    assert found["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1} and found["stages"]["sfe"]["fits"] is True
    assert one.memory and found["stages"]["sfe"]["memory"]["peak"] == one.memory.peak
    assert (found["stages"]["sfe"]["compiled"] is None) == (compiled is None)
