"""A checkpoint that is none of ours is refused in one sentence, from config.json alone where that tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import open_checkpoint
from sage_jax.hf.unsupported import quantised_config, quantised_tensors, supported_models
from tests.support.tiny_internvl import MODEL, save_original, torch_internvl


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_original(torch_internvl("qwen2"), tmp_path_factory.mktemp("hub") / "InternVL-tiny", "qwen2")


def refused(folder: Path) -> str:
    """What is said of a folder, without its own name."""
    with pytest.raises(WeightsError) as raised:
        open_checkpoint(folder, MODEL)
    said = str(raised.value).replace(str(folder), "")
    assert "\n" not in said and said.count(": ") <= 3
    return said


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen2_vl", "Qwen-VL"),
        ("qwen2_5_vl", "Qwen-VL"),
        ("qwen3_vl", "Qwen-VL"),
        ("gemma3", "Gemma"),
        ("paligemma", "PaliGemma"),
        ("llava", "LLaVA"),
        ("llava_onevision", "LLaVA"),
        ("phi3_v", "Phi"),
        ("phi4_multimodal", "Phi"),
        ("minicpmv", "MiniCPM"),
        ("intern_vit_6b", "InternViT alone, a vision encoder without a decoder"),
        ("qwen2", "a language model without a vision encoder"),
        ("internlm2", "a language model without a vision encoder"),
        ("florence2", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_another_model_is_named_with_checkpoints_that_work(tmp_path: Path, model_type: Any, words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "quantization_config": {"bits": 4}}))
    said = refused(tmp_path)
    assert f"model_type {model_type!r} is not supported" in said
    assert (f"this is {words}, not InternVL: " in said) if words else "not InternVL" not in said
    for name in ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL2-8B", "InternVL2_5-*"):
        assert name in said


METHODS: list[tuple[dict[str, Any], str, str]] = [
    ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ, 4 bits", ""),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits", ""),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits", "model.dequantize()"),
    ({"load_in_8bit": True}, "bitsandbytes, 8 bits", "model.dequantize()"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8", "FineGrainedFP8Config(dequantize=True)"),
    ({"quant_method": "compressed-tensors"}, "compressed-tensors", "CompressedTensorsConfig(dequantize=True)"),
    ({"quant_method": "torchao"}, "torchao", ""),
]


@pytest.mark.parametrize("section", ["", "llm_config"])
@pytest.mark.parametrize(("about", "method", "way"), METHODS)
def test_a_quantised_checkpoint_is_told_from_its_config(
    original: Path, tmp_path: Path, section: str, about: dict[str, Any], method: str, way: str
) -> None:
    folder = tmp_path / "InternVL2-8B-AWQ"
    folder.mkdir()
    values = json.loads((original / "config.json").read_text())
    (values[section] if section else values)["quantization_config"] = about
    (folder / "config.json").write_text(json.dumps(values))
    said = refused(folder)  # there are no weights in it
    assert f"this is a quantised checkpoint ({method}), which cannot be read here: take InternVL2-8B, in" in said
    assert (f"{way} and save_pretrained" in said) if way else "transformers" not in said


def test_the_ways_back_are_transformers_own() -> None:
    from transformers import CompressedTensorsConfig, FineGrainedFP8Config, PreTrainedModel

    assert FineGrainedFP8Config(dequantize=True).dequantize
    assert hasattr(PreTrainedModel, "dequantize")
    assert "dequantize" in CompressedTensorsConfig.__init__.__code__.co_varnames


@pytest.mark.parametrize(
    ("suffixes", "dtype", "method"),
    [
        (("qweight", "qzeros", "scales"), np.int32, "AWQ or GPTQ"),
        (("weight", "weight.absmax", "weight.quant_map"), np.uint8, "bitsandbytes"),
        (("weight_packed", "weight_scale", "weight_shape"), np.int32, "compressed-tensors"),
        (("weight", "weight_scale_inv"), np.uint8, "FP8 or INT8"),
        (("weight",), ml_dtypes.float8_e4m3fn, "FP8 or INT8"),
        (("weight", "scales"), np.int8, "an unnamed method"),
    ],
)
def test_a_quantised_checkpoint_is_told_from_its_tensors(
    original: Path, tmp_path: Path, suffixes: tuple[str, ...], dtype: Any, method: str
) -> None:
    folder = tmp_path / "InternVL2-8B"
    shutil.copytree(original, folder)
    stored = load_file(folder / "model.safetensors")
    for key in [key for key in stored if "_proj.weight" in key]:
        del stored[key]
        stored |= {f"{key.removesuffix('weight')}{suffix}": np.zeros((2, 2), dtype) for suffix in suffixes}
    save_file(stored, folder / "model.safetensors")
    said = refused(folder)
    assert f"this is a quantised checkpoint ({method}), which cannot be read here: take the one that it was" in said


def test_plain_checkpoints_are_not_taken_for_quantised_ones(original: Path) -> None:
    assert open_checkpoint(original, MODEL).stored
    for values in ({}, {"quantization_config": None}, {"quantization_config": {}}, {"llm_config": 3}):
        assert quantised_config(values, original) == ""
    assert (
        quantised_tensors({"a.weight": "BF16"}, ["a.weight", "a.bias", "vit.blocks.0.mlp_layer_scale"], original) == ""
    )


def test_the_name_to_take_is_found_in_the_hubs_cache() -> None:
    about = {"quantization_config": {"quant_method": "awq"}}
    for folder, name in (
        ("models--OpenGVLab--InternVL2-8B-AWQ/snapshots/ab12", "OpenGVLab/InternVL2-8B"),
        ("InternVL3-8B-hf-bnb-4bit", "InternVL3-8B-hf"),
        ("InternVL3-8B-GPTQ-Int4", "InternVL3-8B"),
        ("InternVL2_5-8B-w4a16", "InternVL2_5-8B"),
        ("weights", "the one that it was made from"),
    ):
        assert f"take {name}, in bfloat16" in quantised_config(about, Path(folder))


def test_what_is_named_as_supported_is_read() -> None:
    assert all(name in supported_models() for name in ("internvl with qwen2", "internvl_chat with internlm2"))
