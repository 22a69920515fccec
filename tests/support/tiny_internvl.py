"""Tiny InternVL checkpoints of random weights: as transformers writes them, and in the original layout of OpenGVLab."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from sage_jax.config import ModelConfig
from sage_jax.hf.importing import Checkpoint, import_params
from sage_jax.hf.layouts import param_shapes
from sage_jax.parameters import Params
from tests.support.tiny_sage import PLACEHOLDERS, TINY, VOCAB_SIZE
from tests.support.transformers_weights import randomise

MODEL = ModelConfig(fusion=TINY.fusion, compute_dtype="float32")
"""What a checkpoint does not say."""

NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 2, 4, 2, 4
_SHARD_BYTES = 8_000
_TEXT = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def torch_internvl(
    text_model: str = "llama", vit: str = "300m", *, vision: dict[str, Any] | None = None, **text_options: Any
) -> InternVLForConditionalGeneration:
    """A random InternVL; `vit` is `300m` (LayerNorm, biases) or `6b` (RMSNorm, q-k norm, no qkv bias)."""
    large = vit == "6b"
    vision_options: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 2,
        "hidden_size": 8,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "attention_bias": not large,
        "use_qk_norm": large,
        "norm_type": "rms_norm" if large else "layer_norm",
        **(vision or {}),
    }
    options: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": NUM_HEADS * HEAD_DIM,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "intermediate_size": 24,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5_000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **({"head_dim": 6} if text_model == "qwen3" else {}),
        **text_options,
    }
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**vision_options),
        text_config=_TEXT[text_model](**options),
        image_token_id=PLACEHOLDERS.image,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=options["tie_word_embeddings"],
    )
    peer = InternVLForConditionalGeneration(config).float().eval()
    randomise(peer)
    return peer


def save_internvl(peer: InternVLForConditionalGeneration, folder: Path, *, sharded: bool = True) -> Path:
    """The folder, with the model as transformers writes it, in several shards or one."""
    peer.save_pretrained(folder, max_shard_size=_SHARD_BYTES if sharded else "1GB")
    return folder


def save_original(
    peer: InternVLForConditionalGeneration, folder: Path, text_model: str, dtype: Any = np.float32
) -> Path:
    """The folder, with the model as OpenGVLab publishes InternVLChatModel: written out here from its modelling code."""
    weights = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}
    vision, text = (peer.config.to_dict()[name] for name in ("vision_config", "text_config"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_original_config(vision, text, text_model)), encoding="utf-8")
    original = {_original_key(name, text_model): values for name, values in weights.items() if "_proj." not in name}
    for layer in range(NUM_LAYERS):
        theirs = f"vision_model.encoder.layers.{layer}.attn.qkv"
        ours = f"model.vision_tower.encoder.layer.{layer}.attention"
        for last in ("weight", "bias")[: 1 + vision["attention_bias"]]:
            # InternAttention reads its projection as (3, heads, width): queries of all heads, keys, values
            original[f"{theirs}.{last}"] = np.concatenate([weights[f"{ours}.{part}_proj.{last}"] for part in "qkv"])
        original.update(_original_layer(weights, layer, text_model))
    original = {name: np.ascontiguousarray(values.astype(dtype)) for name, values in original.items()}
    save_file(original, folder / "model.safetensors", {"format": "pt"})
    return folder


def _original_config(vision: dict[str, Any], text: dict[str, Any], text_model: str) -> dict[str, Any]:
    """Content of OpenGVLab's config.json, from the sections of transformers' one."""
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "force_image_size": 8,
        "max_dynamic_patch": 12,
        "template": "internlm2-chat",
        "torch_dtype": "bfloat16",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "image_size": 8,
            "patch_size": 2,
            "hidden_size": 8,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "norm_type": vision["norm_type"],
            "layer_norm_eps": vision["layer_norm_eps"],
            "qkv_bias": vision["attention_bias"],
            "qk_normalization": vision["use_qk_norm"],
            "use_moe": False,
            "num_experts": 8,  # the published configs carry such fields of an experiment that is off
        },
        "llm_config": {
            "architectures": [_ARCHITECTURES[text_model]],
            "model_type": text_model,
            "vocab_size": VOCAB_SIZE,
            "hidden_size": text["hidden_size"],
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": NUM_HEADS,
            "num_key_value_heads": NUM_KV_HEADS,
            "intermediate_size": 24,
            "rms_norm_eps": 1e-5,
            "rope_theta": 5_000.0,
            "rope_scaling": {"factor": 2.0, "type": "dynamic"},
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            **({"bias": False} if text_model == "internlm2" else {}),
            **({"head_dim": 6} if text_model == "qwen3" else {}),
        },
    }


_ARCHITECTURES = {
    "internlm2": "InternLM2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}


def _original_key(name: str, text_model: str) -> str:
    """Published name of what is stored as it is."""
    if name == "lm_head.weight":
        return "language_model.output.weight" if text_model == "internlm2" else "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        name = name.replace("language_model.", "language_model.model.")
        if text_model == "internlm2":
            for old, new in (
                ("embed_tokens", "tok_embeddings"),
                ("input_layernorm", "attention_norm"),
                ("post_attention_layernorm", "ffn_norm"),
            ):
                name = name.replace(old, new)
        return name
    for old, new in (
        ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
        ("vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
        ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
        ("vision_tower.encoder.layer.", "vision_model.encoder.layers."),
        ("attention.projection_layer", "attn.proj"),
        ("attention.", "attn."),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("lambda_1", "ls1"),
        ("lambda_2", "ls2"),
        ("multi_modal_projector.layer_norm", "mlp1.0"),
        ("multi_modal_projector.linear_1", "mlp1.1"),
        ("multi_modal_projector.linear_2", "mlp1.3"),
    ):
        name = name.replace(old, new)
    return name


def _original_layer(weights: dict[str, np.ndarray], layer: int, text_model: str) -> dict[str, np.ndarray]:
    """A decoder layer's projections in the original layout."""
    ours, theirs = f"model.language_model.layers.{layer}.", f"language_model.model.layers.{layer}."
    if text_model != "internlm2":
        names = [name for name in weights if name.startswith(ours) and "_proj." in name]
        return {theirs + name.removeprefix(ours): weights[name] for name in names}
    renamed = {
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "self_attn.o_proj": "attention.wo",
    }
    found = {f"{theirs}{new}.weight": weights[f"{ours}{old}.weight"] for old, new in renamed.items()}
    query, key, value = (weights[f"{ours}self_attn.{part}_proj.weight"] for part in "qkv")
    return found | {f"{theirs}attention.wqkv.weight": internlm2_wqkv(query, key, value)}


def internlm2_wqkv(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """InternLM2's fused projection, row by row from its definition.

    InternLM2 rearranges the projection's output as `(h gs d) -> h gs d`, h key/value heads, gs = query heads of one and
    two more, d the head's width: of `gs`, the first are queries (`h gs d -> (h gs) d`), then one key, then one value.
    """
    per_head = NUM_HEADS // NUM_KV_HEADS
    width = len(key) // NUM_KV_HEADS
    rows = []
    for h in range(NUM_KV_HEADS):
        for gs in range(per_head + 2):
            for d in range(width):
                if gs < per_head:
                    rows.append(query[(h * per_head + gs) * width + d])
                elif gs == per_head:
                    rows.append(key[h * width + d])
                else:
                    rows.append(value[h * width + d])
    return np.stack(rows)


def shapes_of(checkpoint: Checkpoint, vocab_size: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """Every parameter of the checkpoint's Sage."""
    shapes = param_shapes(checkpoint.model, vocab_size or checkpoint.config.vocab_size)
    return {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}


def imported(checkpoint: Checkpoint, vocab_size: int = 0) -> Params:
    """The checkpoint's parameters on one device."""
    shapes = shapes_of(checkpoint, vocab_size)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return import_params(checkpoint, shapes, dict.fromkeys(shapes, whole))


def stored_bytes(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor of a folder's model, read here from the format's definition."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        for key, about in header.items():
            begin, end = (8 + length + offset for offset in about["data_offsets"])
            assert key not in found
            found[key] = (about["dtype"], tuple(about["shape"]), content[begin:end])
    return found


def layer_of(key: str) -> str:
    """The key with its layer's index left out."""
    return re.sub(r"\.\d+\.", ".*.", key)


def to_bfloat16(peer: InternVLForConditionalGeneration) -> InternVLForConditionalGeneration:
    """The model with weights that bfloat16 holds exactly."""
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.from_numpy(parameter.numpy().astype(ml_dtypes.bfloat16).astype(np.float32)))
    return peer.bfloat16()
