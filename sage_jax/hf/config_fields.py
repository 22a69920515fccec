"""The fields of a checkpoint's config.json: their names in each layout, their defaults, and what they must hold."""

from __future__ import annotations

from typing import Any, Final, Literal

Layout = Literal["internvl", "internvl_chat"]
TextModel = Literal["qwen2", "qwen3", "llama", "internlm2"]
Dtype = Literal["float32", "bfloat16"]

TEXT_MODELS: Final[dict[Layout, tuple[TextModel, ...]]] = {
    "internvl": ("qwen2", "qwen3", "llama"),
    "internvl_chat": ("internlm2", "qwen2", "qwen3", "llama"),
}
"""What is read and written: transformers' own InternVL and OpenGVLab's InternVLChatModel, each with its decoders."""

ARCHITECTURES: Final[dict[TextModel, str]] = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}
TEXT_SECTION: Final[dict[Layout, str]] = {"internvl": "text_config", "internvl_chat": "llm_config"}

# A config.json leaves out what equals the default of its class, so these are part of the format.
_DECODER: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}
_QWEN: Final = {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768}
TEXT_DEFAULTS: Final[dict[TextModel, dict[str, Any]]] = {
    "llama": {**_DECODER, "vocab_size": 32000, "attention_bias": False, "mlp_bias": False},
    "qwen2": {**_DECODER, **_QWEN, "num_key_value_heads": 32},
    "qwen3": {**_DECODER, **_QWEN, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    "internlm2": {**_DECODER, "vocab_size": 103168, "bias": True},
}
VISION_DEFAULTS: Final[dict[Layout, dict[str, Any]]] = {
    "internvl": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "attention_bias": False,
        "use_qk_norm": False,
        "intermediate_size": 4096,
        "hidden_act": "gelu",
        "norm_type": "layer_norm",
        "layer_norm_eps": 1e-6,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "num_channels": 3,
        "use_mask_token": False,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    },
    "internvl_chat": {
        "hidden_size": 3200,
        "num_hidden_layers": 48,
        "num_attention_heads": 25,
        "qkv_bias": False,
        "qk_normalization": True,
        "intermediate_size": 12800,
        "hidden_act": "gelu",
        "norm_type": "rms_norm",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 14,
        "num_channels": 3,
    },
}
TOP_DEFAULTS: Final[dict[Layout, dict[str, Any]]] = {
    "internvl": {"downsample_ratio": 0.5},
    "internvl_chat": {"downsample_ratio": 0.5, "ps_version": "v1"},
}

# What these fields must hold for the model to be the one that is computed here.
FIXED_TOP: Final[dict[Layout, dict[str, Any]]] = {
    "internvl": {
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    },
    "internvl_chat": {"select_layer": -1, "ps_version": "v2", "use_backbone_lora": 0, "use_llm_lora": 0},
}
FIXED_VISION: Final[dict[str, Any]] = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "use_mask_token": False,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
    "use_moe": False,
}
FIXED_TEXT: Final[dict[str, Any]] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "rope_pos_id_version": "default",
}

# Field of ours -> theirs, for the fields that are plain copies.
_VIT_FIELDS: Final = {
    "tile_px": "image_size",
    "patch_px": "patch_size",
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "norm": "norm_type",
    "norm_eps": "layer_norm_eps",
}
VIT_FIELDS: Final[dict[Layout, dict[str, str]]] = {
    "internvl": {**_VIT_FIELDS, "qkv_bias": "attention_bias", "qk_norm": "use_qk_norm"},
    "internvl_chat": {**_VIT_FIELDS, "qkv_bias": "qkv_bias", "qk_norm": "qk_normalization"},
}
DECODER_FIELDS: Final[dict[str, str]] = {
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
NORMS: Final = {"layer_norm": "layer", "rms_norm": "rms"}
