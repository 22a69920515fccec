"""The table of accelerators."""

from __future__ import annotations

import typing

import pytest

from sage_jax.config import PlanConfig
from sage_jax.plan.device_kinds import DEVICE_KINDS


def test_the_config_offers_what_the_table_has() -> None:
    choices = typing.get_args(typing.get_type_hints(PlanConfig)["device"])
    assert set(choices) == DEVICE_KINDS.keys()
    assert len({kind.title for kind in DEVICE_KINDS.values()}) == len(DEVICE_KINDS)


@pytest.mark.parametrize("name", DEVICE_KINDS)
def test_a_kind_has_plausible_figures_and_a_backend(name: str) -> None:
    kind = DEVICE_KINDS[name]
    assert 8 <= kind.memory_gb <= 300 and 50 <= kind.peak_tflops <= 3000
    hopper = name in ("h100", "h200")
    assert kind.backend == ("tpu" if kind.title.startswith("TPU") else "gpu" if hopper else "older gpu")
