"""Checks of config fields: what passes, and the message of what does not."""

from __future__ import annotations

import math
import types

import pytest

from sage_jax.config import checks
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("scrach", ("scratch", "dent"), "; did you mean 'scratch'?"),
        ("xyz", ("scratch", "dent"), "; there are scratch, dent"),
        ("xyz", (), "; there are none"),
    ],
)
def test_the_nearest_choice_is_named_or_all(name: str, choices: tuple[str, ...], said: str) -> None:
    assert checks.nearest(name, choices) == said


@pytest.mark.parametrize("value", [0, -1, 0.0, math.nan, math.inf])
def test_above_zero_is_finite_and_positive(value: float) -> None:
    checks.require_above_zero(types.SimpleNamespace(steps=1, rate=1e-9), "steps", "rate")
    with pytest.raises(ConfigError, match=r"^rate = .*: must be above 0"):
        checks.require_above_zero(types.SimpleNamespace(rate=value), "rate")


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf])
def test_not_negative_is_finite_and_from_zero(value: float) -> None:
    checks.require_not_negative(types.SimpleNamespace(rate=0, decay=0.0), "rate", "decay")
    with pytest.raises(ConfigError, match=r"^rate = .*: must be 0 or more"):
        checks.require_not_negative(types.SimpleNamespace(rate=value), "rate")


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_a_share_is_from_zero_to_one(value: float) -> None:
    checks.require_share(types.SimpleNamespace(low=0.0, high=1.0), "low", "high")
    with pytest.raises(ConfigError, match="give a share from 0 to 1"):
        checks.require_share(types.SimpleNamespace(low=value), "low")


def test_unknown_names_are_told_with_their_field() -> None:
    checks.require_known("stages", ("sfe",), ("base", "sfe"), "stage")
    with pytest.raises(ConfigError, match=r"^stages: 'sfee' is no stage; did you mean 'sfe'\?$"):
        checks.require_known("stages", ("base", "sfee"), ("base", "sfe"), "stage")


@pytest.mark.parametrize(("size", "total"), [(3, 8), (0, 8), (-2, 8)])
def test_a_part_divides_its_whole(size: int, total: int) -> None:
    checks.require_divides("accumulate", 4, "batch_size", 8)
    with pytest.raises(ConfigError, match=f"accumulate = {size} does not divide batch_size = {total}"):
        checks.require_divides("accumulate", size, "batch_size", total)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(seed: int) -> None:
    checks.require_seed("seed", 0)
    checks.require_seed("seed", 2**32 - 1)
    with pytest.raises(ConfigError, match=f"seed = {seed}"):
        checks.require_seed("seed", seed)
