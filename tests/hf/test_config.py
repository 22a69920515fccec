"""A config.json is read as transformers reads it, and what is not supported is named with what is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import ConfigError, DecoderConfig, FusionConfig, ModelConfig, VitConfig
from sage_jax.hf.config import CheckpointConfig, read_checkpoint_config
from sage_jax.hf.config_fields import TEXT_DEFAULTS, VISION_DEFAULTS
from sage_jax.hf.faults import WeightsError

CHAT: dict[str, Any] = {
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "force_image_size": 448,
    "vision_config": {"image_size": 448, "norm_type": "rms_norm"},
    "llm_config": {"architectures": ["InternLM2ForCausalLM"], "bias": False, "num_key_value_heads": 8},
}


def read(folder: Path, values: Any) -> CheckpointConfig:
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return read_checkpoint_config(folder)


def chat(section: str = "", **changes: Any) -> dict[str, Any]:
    """The original layout's config with fields changed."""
    values = copy.deepcopy(CHAT)
    (values[section] if section else values).update(changes)
    return values


def test_what_a_config_leaves_out_is_the_default_of_its_class(tmp_path: Path) -> None:
    """InternViT-6B and InternLM2 by their published defaults alone."""
    found = read(tmp_path, CHAT)
    assert found.vit == VitConfig(
        tile_px=448, patch_px=14, num_layers=48, embed_dim=3200, num_heads=25, mlp_dim=12800, norm="rms",
        qkv_bias=False, qk_norm=True,
    )  # fmt: skip
    assert found.decoder == DecoderConfig(
        num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, mlp_dim=11008, norm_eps=1e-6
    )
    assert (found.vocab_size, found.max_positions, found.downsample) == (103168, 0, 2)


@pytest.mark.parametrize(
    ("rope", "theta", "limit"),
    [
        ({"rope_theta": 5e5}, 5e5, 0),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, 7e4, 0),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1e6, 2048),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 3e4, "factor": 2.0}}, 3e4, 2048),
    ],
)
def test_rope_is_read_in_each_spelling(tmp_path: Path, rope: dict[str, Any], theta: float, limit: int) -> None:
    found = read(tmp_path, chat("llm_config", **rope))
    assert (found.decoder.rope_theta, found.max_positions) == (theta, limit)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "model_type None is not supported; supported are internvl with qwen2"),
        ({"model_type": "qwen2_vl"}, "model_type 'qwen2_vl' is not supported; supported are internvl"),
        (
            chat("llm_config", architectures=["Qwen3MoeForCausalLM"]),
            "Qwen3MoeForCausalLM' .a mixture of experts. is not",
        ),
        (chat("llm_config", architectures=["Phi3ForCausalLM"]), "'Phi3ForCausalLM' is not supported; supported are"),
        (chat("llm_config", rope_scaling={"type": "linear", "factor": 2.0}), "RoPE scaling 'linear' is not supported"),
        (chat("llm_config", rope_parameters={"rope_type": "yarn"}), "RoPE scaling 'yarn'.*; supported are none"),
        (
            chat("llm_config", rope_scaling={"type": "dynamic"}),
            "RoPE scaling 'dynamic': factor = None: expected a number",
        ),
        (chat("llm_config", rope_parameters={"partial_rotary_factor": 0.5}), "a partial RoPE is not supported"),
        (chat("llm_config", bias=True), "llm_config.bias = True is not supported; supported is False"),
        (chat("llm_config", hidden_act="gelu"), "llm_config.hidden_act = 'gelu'"),
        (chat("llm_config", num_key_value_heads=5), "num_kv_heads = 5 does not divide num_heads = 32"),
        (chat("llm_config", hidden_size="4k"), "llm_config.hidden_size = '4k': expected a whole number above 0"),
        (chat("llm_config", tie_word_embeddings="no"), "tie_word_embeddings = 'no': expected true or false"),
        (chat("vision_config", norm_type="batch"), "norm_type = 'batch': supported are layer_norm, rms_norm"),
        (chat("vision_config", image_size=224), "force_image_size = 448 but vision_config.image_size = 224"),
        (chat("vision_config", use_moe=True), "vision_config.use_moe = True"),
        (chat(ps_version="v1"), "ps_version = 'v1' is not supported; supported is 'v2'"),
        (chat(select_layer=-2), "select_layer = -2"),
        (chat(use_llm_lora=16), "use_llm_lora = 16"),
        (chat(downsample_ratio=0.3), "downsample_ratio = 0.3: supported are 1, 0.5"),
        (chat(vision_config=None), "vision_config: missing"),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(tmp_path: Path, values: Any, named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        read(tmp_path, values)


def test_a_missing_config_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such file; give the folder of a downloaded checkpoint"):
        read_checkpoint_config(tmp_path)


JUNK: list[Any] = [None, "x", [], {}, -1, 0, 1.5, True, [3, 4], {"type": []}, 10**30]


def test_no_value_of_a_field_gives_another_error(tmp_path: Path) -> None:
    """Whatever stands in a field, the config is read or the field's fault is told."""
    base = chat("llm_config", rope_scaling={"type": "dynamic", "factor": 2.0})
    base["llm_config"] = {**TEXT_DEFAULTS["internlm2"], **base["llm_config"]}
    base["vision_config"] = {**VISION_DEFAULTS["internvl_chat"], **base["vision_config"]}
    refused = 0
    for section in ("", "llm_config", "vision_config"):
        for name in base[section] if section else base:
            for junk in JUNK:
                values = copy.deepcopy(base)
                (values[section] if section else values)[name] = junk
                try:
                    read(tmp_path, values).applied_to(ModelConfig(fusion=FusionConfig(num_heads=1)))
                except (WeightsError, ConfigError):
                    refused += 1
    assert refused > 200


def test_all_reasons_are_listed(tmp_path: Path) -> None:
    values = chat(ps_version="v1", select_layer=-2)
    values["llm_config"]["bias"] = True
    with pytest.raises(WeightsError) as raised:
        read(tmp_path, values)
    assert all(name in str(raised.value) for name in ("ps_version", "select_layer", "llm_config.bias", "3 faults"))


def test_a_field_of_the_vit_or_the_grid_may_not_contradict_the_checkpoint(tmp_path: Path) -> None:
    found = read(tmp_path, CHAT)
    for model, named in (
        (ModelConfig(vit=VitConfig(tile_px=224, patch_px=14)), "vit.tile_px = 224, but vision_config.image_size"),
        (ModelConfig(decoder=DecoderConfig(qkv_bias=True)), "decoder.qkv_bias = True, but llm_config.the architecture"),
        (ModelConfig(downsample=4), "downsample = 4, but downsample_ratio"),
    ):
        with pytest.raises(ConfigError, match=named):
            found.applied_to(model)
    kept = found.applied_to(ModelConfig(max_tiles=6, vit=VitConfig(layer_scale=0.5)))
    assert (kept.max_tiles, kept.vit.layer_scale, kept.vit.embed_dim) == (6, 0.5, 3200)


def test_heads_of_the_fusion_must_fit_the_decoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fusion.num_heads = 4 does not divide decoder.embed_dim = 4094.*config.json"):
        read(tmp_path, chat("llm_config", hidden_size=4094, num_attention_heads=23, num_key_value_heads=1)).applied_to(
            ModelConfig()
        )
