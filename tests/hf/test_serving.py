"""An exported folder has the keys and config fields by which vLLM, SGLang and LMDeploy load an InternVL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

from sage_jax.config import DecoderConfig, ModelConfig, VitConfig
from sage_jax.hf.config_fields import TEXT_MODELS, Layout, TextModel
from sage_jax.hf.exporting import export_checkpoint
from sage_jax.hf.layouts import is_plain, param_shapes
from tests.support.serving_names import ARCHITECTURES, CONFIG, DECODER, VISION
from tests.support.tiny_internvl import stored_bytes
from tests.support.tiny_sage import TINY, random_params

_VIT = VitConfig(tile_px=16, patch_px=4, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24)
_DECODERS = {
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "llama": {},
    "internlm2": {},
}
_SERVED = [(layout, name) for layout in TEXT_MODELS for name in TEXT_MODELS[layout]]


def exported(folder: Path, layout: Layout, text_model: TextModel, *, tied: bool = False) -> Path:
    """A model of random weights that was trained here, or on InternLM2, as it is exported."""
    sizes: dict[str, Any] = {"num_layers": 2, "embed_dim": 16, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 24}
    decoder = DecoderConfig(**sizes, tie_embeddings=tied, **_DECODERS[text_model])
    model = ModelConfig(vit=_VIT, decoder=decoder, fusion=TINY.fusion)
    shapes = {path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in param_shapes(model, 32).items()}
    params = {path: leaf for path, leaf in random_params(shapes).items() if is_plain(path)}
    text: dict[str, Any] = {"max_position_embeddings": 64}
    if text_model == "internlm2":
        text["architectures"] = ["InternLM2ForCausalLM"]
    section = "text_config" if layout == "internvl" else "llm_config"
    base = {
        "model_type": layout,
        section: text,
        **{"template": "internvl2_5", "dynamic_image_size": True, "use_thumbnail": True},
        **{"min_dynamic_patch": 1, "max_dynamic_patch": 6},  # as stages/export.py writes them
    }
    options: Any = {"layout": layout, "dtype": "float32", "image_token_id": 3, "base": base}
    export_checkpoint(params, model, folder, **options)
    return folder


def keys_of(names: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {f"{module}.{last}" for module, lasts in names.items() for last in lasts}


@pytest.mark.parametrize(("layout", "text_model"), _SERVED)
def test_the_keys_are_the_loaders_parameters_each_and_no_other(
    tmp_path: Path, layout: Layout, text_model: TextModel
) -> None:
    stored = stored_bytes(exported(tmp_path / "out", layout, text_model))
    found = {re.sub(r"\.\d+\.", ".N.", key) if ".layer" in key else key for key in stored}
    assert found == keys_of(VISION[layout]) | keys_of(DECODER[text_model])


@pytest.mark.parametrize(("layout", "text_model"), _SERVED)
def test_the_config_has_the_fields_that_loaders_read(tmp_path: Path, layout: Layout, text_model: TextModel) -> None:
    about = json.loads((exported(tmp_path / "out", layout, text_model) / "config.json").read_text())
    for section, names in CONFIG[layout].items():
        part = about[section] if section else about
        assert not [name for name in names if name not in part], section
    assert about["architectures"] == [ARCHITECTURES[layout]]
    text = about["text_config" if layout == "internvl" else "llm_config"]
    assert text["architectures"][0].lower() == f"{text_model}forcausallm"
    sides = (
        [16, 16] if layout == "internvl" else 16
    )  # vLLM reads sides by index in the one and as a number in the other
    assert about["vision_config"]["image_size"] == sides
    # All three divide: tokens of a tile are (image / patch)^2 * ratio^2.
    assert (16 // 4) ** 2 * about["downsample_ratio"] ** 2 == 4


def test_sglang_which_unties_every_model_finds_an_output_layer(tmp_path: Path) -> None:
    stored = stored_bytes(exported(tmp_path / "out", "internvl_chat", "qwen2", tied=True))
    assert stored["language_model.lm_head.weight"] == stored["language_model.model.embed_tokens.weight"]
    plain = stored_bytes(exported(tmp_path / "plain", "internvl", "qwen2", tied=True))
    assert "language_model.lm_head.weight" not in plain  # transformers ties it, as vLLM does
