"""Impossible configs stop with the field's name and the nearest right value."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sage_jax.config import (
    ConfigError,
    DecoderConfig,
    FusionConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    PreferenceConfig,
    TrainConfig,
    VitConfig,
    nearest,
)


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (VitConfig, {"tile_px": 0}, "tile_px = 0: must be above 0"),
        (VitConfig, {"tile_px": -64}, "tile_px = -64: must be above 0"),
        (VitConfig, {"layer_scale": math.nan}, "layer_scale = nan: must be 0 or more, and finite"),
        (TrainConfig, {"b1": 1.0}, "b1 = 1.0: give a decay rate from 0 to below 1"),
        (TrainConfig, {"b2": 1.0}, "b2 = 1.0: give a decay rate from 0 to below 1"),
        (TrainConfig, {"peak_learning_rate": math.inf}, "peak_learning_rate = inf: must be above 0, and finite"),
        (TrainConfig, {"weight_decay": math.inf}, "weight_decay = inf: must be 0 or more, and finite"),
        (VitConfig, {"patch_px": 7}, "patch_px = 7 does not divide tile_px = 64"),
        (VitConfig, {"num_heads": 5}, "num_heads = 5 does not divide embed_dim = 96"),
        (DecoderConfig, {"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        (DecoderConfig, {"head_dim": 3}, "head_dim: a head is 3 wide; RoPE needs an even width"),
        (FusionConfig, {"num_distinct": 0}, "num_distinct = 0"),
        (ModelConfig, {"downsample": 3}, "downsample = 3 does not divide a tile's side in patches = 8"),
        (ModelConfig, {"fusion": FusionConfig(num_heads=5)}, "fusion.num_heads = 5 does not divide"),
        (MeshConfig, {"data": -1, "fsdp": -1}, "only one may be -1"),
        (MeshConfig, {"tensor": 0}, "tensor = 0: give 1 or more"),
        (PreferenceConfig, {"tau": 0.0}, "tau = 0.0: must be above 0"),
        (PreferenceConfig, {"sft_weight": -1.0}, "sft_weight = -1.0: must be 0 or more"),
        (TrainConfig, {"accumulate": 3}, "accumulate = 3 does not divide batch_size = 16"),
        (TrainConfig, {"warmup_steps": 201}, "warmup_steps = 201 is more than steps = 200"),
        (TrainConfig, {"peak_learning_rate": math.nan}, "peak_learning_rate = nan: must be above 0"),
        (TrainConfig, {"keep_last": 0}, "keep_last = 0"),
        (LoraConfig, {"rank": -1}, "rank = -1: must be 0 or more"),
        (LoraConfig, {"rank": 8, "alpha": 0.0}, "alpha = 0.0: must be above 0"),
        (LoraConfig, {"rank": 8, "targets": ()}, "targets is empty: name layers, such as ('decoder/',)"),
        (LoraConfig, {"base": "int4"}, "base = int4 goes with LoRA: set rank, such as 16"),
    ],
)
def test_impossible_values_name_field_and_cure(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        cls(**fields)
    assert message in str(raised.value)


@pytest.mark.parametrize("cls", [ModelConfig, MeshConfig, PreferenceConfig, TrainConfig])
def test_defaults_can_run_and_cannot_be_changed(cls: Any) -> None:
    config = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)


def test_a_name_like_no_choice_gets_all_choices() -> None:
    assert nearest("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert nearest("zzz", ["steps", "seed"]) == "; there are steps, seed"
