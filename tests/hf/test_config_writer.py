"""A written config.json is read as the same model, keeps what the base said, and refuses what it cannot say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import DecoderConfig, ModelConfig, VitConfig
from sage_jax.hf.config import CheckpointConfig, read_checkpoint_config
from sage_jax.hf.config_fields import Layout
from sage_jax.hf.config_writer import check_expressible, config_json, text_model_of
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.original_code import AUTO_MAP
from tests.support.tiny_internvl import MODEL, save_internvl, torch_internvl


def read(folder: Path, values: dict[str, Any]) -> CheckpointConfig:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return read_checkpoint_config(folder)


@pytest.mark.parametrize("layout", ["internvl", "internvl_chat"])
def test_a_written_config_is_read_as_the_same_model(tmp_path: Path, layout: Layout) -> None:
    decoders = {
        "llama": DecoderConfig(num_layers=2, embed_dim=24, num_heads=4, num_kv_heads=2, mlp_dim=40, rope_theta=3e5),
        "qwen2": DecoderConfig(embed_dim=24, qkv_bias=True, tie_embeddings=True),
        "qwen3": DecoderConfig(embed_dim=24, head_dim=10, qk_norm=True),
    }
    for name, decoder in decoders.items():
        vit = VitConfig(tile_px=32, norm="rms", qk_norm=True, qkv_bias=False)
        model = ModelConfig(vit=vit, decoder=decoder, fusion=MODEL.fusion)
        found = read(tmp_path, config_json(model, layout=layout, vocab_size=99, dtype="bfloat16", image_token_id=7))
        assert (found.layout, found.text_model, found.vocab_size) == (layout, name, 99)
        assert found.applied_to(ModelConfig(fusion=MODEL.fusion)) == model


def test_a_config_keeps_what_the_base_says_beside_sizes(tmp_path: Path) -> None:
    save_internvl(torch_internvl("qwen2"), tmp_path)
    base = read_checkpoint_config(tmp_path)
    model = base.applied_to(MODEL)
    written = config_json(model, layout="internvl", vocab_size=base.vocab_size, dtype="float32", base=base.values)
    for section in ("text_config", "vision_config"):
        changed = {k for k, v in base.values[section].items() if written[section].get(k) != v}
        assert changed <= {"architectures", "dtype"}, changed
    other = config_json(model, layout="internvl_chat", vocab_size=base.vocab_size, dtype="float32", base=base.values)
    assert other["llm_config"]["eos_token_id"] == base.values["text_config"]["eos_token_id"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(decoder=DecoderConfig(qkv_bias=True, qk_norm=True)), "qkv_bias .Qwen2. and qk_norm .Qwen3."),
        (ModelConfig(vit=VitConfig(qk_norm=True, norm_eps=1e-5)), "norm_eps = 1e-05 with qk_norm"),
        (ModelConfig(vit=VitConfig(tile_px=72), downsample=3), "model.downsample = 3: .* takes 1, 2, 4"),
    ],
)
def test_what_transformers_internvl_would_compute_differently_is_not_written(model: ModelConfig, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_json(model, layout="internvl", vocab_size=8, dtype="float32", image_token_id=3)


def test_any_size_can_be_written() -> None:
    for downsample in (1, 2, 4):
        check_expressible(ModelConfig(vit=VitConfig(tile_px=64, patch_px=8), downsample=downsample), "internvl")


def test_internlm2_stays_internlm2_in_its_own_layout_alone() -> None:
    base = {"llm_config": {"architectures": ["InternLM2ForCausalLM"]}}
    assert text_model_of(DecoderConfig(), "internvl_chat", base) == "internlm2"
    assert text_model_of(DecoderConfig(), "internvl", base) == "llama"
    assert text_model_of(DecoderConfig(qkv_bias=True), "internvl_chat", base) == "qwen2"


def test_no_code_of_the_base_is_named_but_opengvlabs_own() -> None:
    base = {"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.Y"}, "llm_config": {"auto_map": {}}}
    written = config_json(ModelConfig(), layout="internvl_chat", vocab_size=8, dtype="float32", base=base)
    assert written["auto_map"] == AUTO_MAP and base["auto_map"] == {"AutoModel": "x.Y"}
    assert "auto_map" not in written["llm_config"]
    options: Any = {"vocab_size": 8, "dtype": "float32", "image_token_id": 3, "base": base}
    assert "auto_map" not in config_json(ModelConfig(), layout="internvl", **options)


def test_transformers_layout_needs_the_image_token() -> None:
    with pytest.raises(WeightsError, match="needs image_token_id, the id of <IMG_CONTEXT>"):
        config_json(ModelConfig(), layout="internvl", vocab_size=8, dtype="float32")
