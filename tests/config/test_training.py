"""Config of a training stage."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import LoraConfig, PreferenceConfig, TrainConfig
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (PreferenceConfig, {"beta": 0.0}, "beta = 0.0: must be above 0"),
        (PreferenceConfig, {"eta": -0.1}, "eta = -0.1: must be 0 or more"),
        (PreferenceConfig, {"soft_temperature": float("nan")}, "soft_temperature = nan"),
        (LoraConfig, {"rank": -1}, "rank = -1"),
        (LoraConfig, {"rank": 4, "alpha": 0.0}, "alpha = 0.0"),
        (LoraConfig, {"targets": ()}, "targets is empty"),
        (LoraConfig, {"base": "int8"}, "base = int8 goes with LoRA: set rank"),
        (TrainConfig, {"steps": 0}, "steps = 0"),
        (TrainConfig, {"batch_size": 8, "accumulate": 3}, "accumulate = 3 does not divide batch_size = 8"),
        (TrainConfig, {"reference_drop_rate": 1.1}, "reference_drop_rate = 1.1"),
        (TrainConfig, {"b2": 1.0}, "give a decay rate from 0 to below 1"),
        (TrainConfig, {"peak_learning_rate": float("inf")}, "peak_learning_rate = inf: must be above 0, and finite"),
    ],
)
def test_what_cannot_train_is_refused(kind: Any, fields: dict[str, Any], said: str) -> None:
    kind()
    with pytest.raises(ConfigError, match=said):
        kind(**fields)


@pytest.mark.parametrize(("rank", "alpha", "scale"), [(16, 32.0, 2.0), (8, 2.0, 0.25), (0, 32.0, 32.0)])
def test_the_scale_is_alpha_over_rank(rank: int, alpha: float, scale: float) -> None:
    assert LoraConfig(rank=rank, alpha=alpha).scale == scale
