"""Names that vLLM, SGLang and LMDeploy read of an InternVL checkpoint, written down from their loaders.

Sources: vLLM 0.33 (`models/internvl.py`, `intern_vit.py`, `internlm2.py`, `interns1.py`, `interns1_vit.py`,
`transformers_utils/processors/internvl.py`), SGLang (`srt/models/internvl.py`, `srt/configs/internvl.py`), LMDeploy
(`vl/model/internvl.py`, `vl/model/internvl3_hf.py`, `pytorch/configurations/internvl.py`), read in November 2026.
"""

from __future__ import annotations

from typing import Final

_LINEAR: Final = ("weight", "bias")

VISION: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "internvl_chat": {
        "vision_model.embeddings": ("class_embedding", "position_embedding"),
        "vision_model.embeddings.patch_embedding": _LINEAR,
        **{
            f"vision_model.encoder.layers.N.{name}": _LINEAR for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        },
        **{f"vision_model.encoder.layers.N.{name}": _LINEAR for name in ("norm1", "norm2")},
        "vision_model.encoder.layers.N": ("ls1", "ls2"),
        **{f"mlp1.{index}": _LINEAR for index in (0, 1, 3)},
    },
    "internvl": {
        "vision_tower.embeddings": ("cls_token", "position_embeddings"),
        "vision_tower.embeddings.patch_embeddings.projection": _LINEAR,
        **{f"vision_tower.encoder.layer.N.attention.{name}_proj": _LINEAR for name in "qkv"},
        **{
            f"vision_tower.encoder.layer.N.{name}": _LINEAR
            for name in ("attention.projection_layer", "mlp.fc1", "mlp.fc2", "layernorm_before", "layernorm_after")
        },
        "vision_tower.encoder.layer.N": ("lambda_1", "lambda_2"),
        **{f"multi_modal_projector.{name}": _LINEAR for name in ("layer_norm", "linear_1", "linear_2")},
    },
}
"""Parameters of encoder (300M, with biases) and adapter by module; `N` is the layer."""

_LAYER: Final = "language_model.model.layers.N"
_WEIGHT: Final = ("weight",)
_LLAMA: Final = {
    "language_model.model.embed_tokens": _WEIGHT,
    "language_model.model.norm": _WEIGHT,
    "language_model.lm_head": _WEIGHT,
    f"{_LAYER}.input_layernorm": _WEIGHT,
    f"{_LAYER}.post_attention_layernorm": _WEIGHT,
    f"{_LAYER}.self_attn.o_proj": _WEIGHT,
    **{f"{_LAYER}.mlp.{name}_proj": _WEIGHT for name in ("gate", "up", "down")},
}
DECODER: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "llama": {**_LLAMA, **{f"{_LAYER}.self_attn.{name}_proj": _WEIGHT for name in "qkv"}},
    "qwen2": {**_LLAMA, **{f"{_LAYER}.self_attn.{name}_proj": _LINEAR for name in "qkv"}},
    "qwen3": {
        **_LLAMA,
        **{f"{_LAYER}.self_attn.{name}": _WEIGHT for name in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")},
    },
    "internlm2": {
        "language_model.model.tok_embeddings": _WEIGHT,
        "language_model.model.norm": _WEIGHT,
        "language_model.output": _WEIGHT,
        **{f"{_LAYER}.{name}": _WEIGHT for name in ("attention_norm", "ffn_norm", "attention.wqkv", "attention.wo")},
        **{f"{_LAYER}.feed_forward.{name}": _WEIGHT for name in ("w1", "w2", "w3")},
    },
}
"""Parameters of the decoder by module."""

_SIZES: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
CONFIG: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "internvl_chat": {
        "": (
            *("architectures", "auto_map", "model_type", "downsample_ratio", "ps_version", "select_layer", "template"),
            *("force_image_size", "dynamic_image_size", "use_thumbnail", "min_dynamic_patch", "max_dynamic_patch"),
        ),
        "vision_config": (
            *(*_SIZES, "image_size", "patch_size", "norm_type", "layer_norm_eps"),
            *("qkv_bias", "qk_normalization"),
        ),
        "llm_config": (
            *(*_SIZES, "architectures", "model_type", "vocab_size", "num_key_value_heads", "rms_norm_eps"),
            *("rope_theta", "max_position_embeddings", "tie_word_embeddings"),
        ),
    },
    "internvl": {
        "": ("architectures", "model_type", "downsample_ratio", "image_token_id", "vision_feature_layer")
        + ("vision_feature_select_strategy",),
        "vision_config": (
            *(*_SIZES, "image_size", "patch_size", "norm_type", "layer_norm_eps", "attention_bias"),
            *("use_qk_norm", "use_absolute_position_embeddings"),
        ),
        "text_config": (
            *(*_SIZES, "architectures", "model_type", "vocab_size", "num_key_value_heads", "rms_norm_eps"),
            *("max_position_embeddings", "tie_word_embeddings"),
        ),
    },
}
"""Fields of config.json that some loader reads without a default that fits, by section."""

ARCHITECTURES: Final = {"internvl_chat": "InternVLChatModel", "internvl": "InternVLForConditionalGeneration"}
"""By which all three choose their class; SGLang has the first alone."""
