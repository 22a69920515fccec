"""peft loads exported adapters on transformers' InternVL, which then computes what the merged model computes."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import InternVLForConditionalGeneration

from sage_jax.config import LoraConfig
from sage_jax.hf.exporting import export_checkpoint
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import Checkpoint, open_checkpoint
from sage_jax.hf.peft import export_peft_adapter, save_adapters
from sage_jax.models.lora import TRAINED, fold, merge_adapters
from sage_jax.parameters import Params
from sage_jax.training.lora_params import start_params
from tests.support.tiny_internvl import MODEL, imported, save_internvl, torch_internvl


def trained(params: Params, lora: LoraConfig, seed: int) -> Params:
    """A stage's parameters after it has moved its adapters far."""
    rng = np.random.default_rng(seed)
    started = start_params(dict(params), lora, seed)
    moved = {path: rng.normal(size=leaf.shape) for path, leaf in started.items() if path.endswith(TRAINED)}
    return started | {path: jnp.asarray(0.3 * values, jnp.float32) for path, values in moved.items()}


def exported(checkpoint: Checkpoint, params: Params, folder: Path) -> InternVLForConditionalGeneration:
    """Plain parameters as transformers loads them."""
    export_checkpoint(params, checkpoint.model, folder, dtype="float32", image_token_id=3)
    return InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def peer_logits(peer: torch.nn.Module) -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[5, 6, *[3] * 8, 7, 9, 11, 13]])
    with torch.no_grad():
        return peer(input_ids=ids, pixel_values=torch.randn((2, 3, 8, 8), generator=generator)).logits[0].numpy()


@pytest.mark.parametrize(
    ("text_model", "targets"),
    [
        ("llama", ("decoder/",)),
        ("qwen2", ("decoder/blocks/attention/", "vit/", "adapter/")),
        ("qwen3", ("decoder/blocks/attention/qkv/", "vit/blocks/mlp/up")),
    ],
)
def test_peft_loads_the_adapter_on_the_transformers_model_and_gives_the_merged_logits(
    tmp_path: Path, text_model: str, targets: tuple[str, ...]
) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(text_model), tmp_path / "base"), MODEL)
    lora = LoraConfig(rank=3, alpha=5.0, targets=targets)
    params = trained(imported(checkpoint), lora, seed=1)
    export_peft_adapter(params, lora, checkpoint.model, tmp_path / "peft", base_model=str(tmp_path / "base"))
    base = InternVLForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    before = peer_logits(base)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
    merged = exported(checkpoint, merge_adapters(fold(params, scale=lora.scale)), tmp_path / "merged")
    found, expected = peer_logits(adapted), peer_logits(merged)
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Every tensor of the file has found a place, and no other layer has an adapter.
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    places = [name for name, _ in adapted.named_parameters() if ".lora_" in name]
    assert {name.replace(".default", "") for name in places} == set(stored)


def test_adapters_of_two_stages_and_the_part_trained_whole_go_along(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "base"), MODEL)
    first = LoraConfig(rank=2, alpha=6.0, targets=("decoder/blocks/mlp/",))
    second = LoraConfig(rank=3, alpha=1.0, targets=("decoder/",))
    params = trained(imported(checkpoint), first, seed=1)
    params = trained(fold(params, scale=first.scale), second, seed=2)
    whole = {path: leaf + 0.2 for path, leaf in params.items() if path.startswith("adapter/")}
    params = params | whole
    export_peft_adapter(params, second, checkpoint.model, tmp_path / "peft", whole=("adapter",))
    about = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"], about["modules_to_save"]) == (5, 5, ["multi_modal_projector"])
    assert about["target_modules"] == sorted(
        [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    )
    base = InternVLForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
    merged = exported(checkpoint, merge_adapters(fold(params, scale=second.scale)), tmp_path / "merged")
    np.testing.assert_allclose(peer_logits(adapted), peer_logits(merged), atol=1e-4)


def test_adapters_are_saved_alone_by_their_own_paths(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "base"), MODEL)
    lora = LoraConfig(rank=2, base="int8")
    params = trained(imported(checkpoint), lora, seed=1)
    save_adapters(params, tmp_path / "lora.safetensors")
    found = load_file(tmp_path / "lora.safetensors")
    assert found.keys() == {path for path in params if path.endswith(TRAINED)}
    for path, values in found.items():
        np.testing.assert_array_equal(values, params[path], err_msg=path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "lora.safetensors"]


def test_parameters_without_adapters_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "base"), MODEL)
    with pytest.raises(WeightsError, match="no adapters to export: train a stage with lora.rank"):
        export_peft_adapter(imported(checkpoint), LoraConfig(rank=2), checkpoint.model, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
