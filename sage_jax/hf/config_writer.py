"""The config.json of an exported model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from sage_jax.config import DecoderConfig, ModelConfig
from sage_jax.hf.config_fields import (
    ARCHITECTURES,
    DECODER_FIELDS,
    FIXED_TOP,
    NORMS,
    TEXT_MODELS,
    TEXT_SECTION,
    VIT_FIELDS,
    Dtype,
    Layout,
    TextModel,
)
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.original_code import AUTO_MAP

# What a decoder's section says beside its sizes, kept when a model is exported to the other layout.
_KEPT_TEXT: Final = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "max_position_embeddings",
    "rope_scaling",
    "rope_parameters",
    "initializer_range",
    "attention_dropout",
)


def text_model_of(decoder: DecoderConfig, layout: Layout, base: Mapping[str, Any] | None = None) -> TextModel:
    """The decoder that the export is: the one it was imported as where the layout has it, else by its variant.

    InternLM2 is Llama but for the layout of its weights, so transformers' layout has it as `llama`.
    """
    found: TextModel = "qwen2" if decoder.qkv_bias else "qwen3" if decoder.qk_norm else "llama"
    architectures = ((base or {}).get("llm_config") or {}).get("architectures") or [None]
    was_internlm2 = architectures[0] == ARCHITECTURES["internlm2"]
    return "internlm2" if found == "llama" and was_internlm2 and layout == "internvl_chat" else found


def check_expressible(model: ModelConfig, layout: Layout) -> None:
    """Checks that the layout's model computes the same; sizes of any kind are no obstacle.

    Raises:
      WeightsError: With every reason why it would not.
    """
    faults = []
    vit, decoder = model.vit, model.decoder
    if decoder.qkv_bias and decoder.qk_norm:
        faults.append(
            "model.decoder has qkv_bias (Qwen2) and qk_norm (Qwen3): no decoder of "
            f"{', '.join(TEXT_MODELS[layout])} has both"
        )
    if layout == "internvl" and vit.qk_norm and vit.norm_eps != 1e-6:
        faults.append(
            f"model.vit.norm_eps = {vit.norm_eps} with qk_norm: transformers' InternVL has 1e-06 in these norms"
        )
    if layout == "internvl" and model.downsample & (model.downsample - 1):
        faults.append(f"model.downsample = {model.downsample}: transformers' InternVL takes 1, 2, 4 and so on")
    if faults:
        raise WeightsError(f"cannot be exported with layout {layout!r}: " + "; ".join(faults))


def config_json(
    model: ModelConfig,
    *,
    layout: Layout,
    vocab_size: int,
    dtype: Dtype,
    image_token_id: int | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What config.json says of an exported model.

    Args:
      vocab_size: Rows of the token embedding.
      image_token_id: Id of `<IMG_CONTEXT>`; needed for the layout `internvl` unless `base` has it.
      base: config.json of the checkpoint that the model was imported from, in any layout: what it says beside sizes
        (special tokens, longest context, chat template) is kept. Code that it names is not: `auto_map` is that of
        `original_code` in OpenGVLab's layout, and none in transformers'.

    Raises:
      WeightsError: The layout has no such model, or there is no image token.
    """
    check_expressible(model, layout)
    base = copy.deepcopy(dict(base or {}))
    text_model = text_model_of(model.decoder, layout, base)
    same = base.get("model_type") == layout
    values: dict[str, Any] = base if same else {}
    section = TEXT_SECTION[layout]
    other = base.get(TEXT_SECTION["internvl_chat" if layout == "internvl" else "internvl"], {})
    text = base.get(section, {}) if same else {name: other[name] for name in _KEPT_TEXT if name in other}
    vision = base.get("vision_config", {}) if same else {}
    text.update(_text(model.decoder, text_model, vocab_size, text))
    vision.update(_vision(model, layout))
    values.update({"model_type": layout, section: text, "vision_config": vision, **FIXED_TOP[layout]})
    values.update({"torch_dtype": dtype, "downsample_ratio": 1 / model.downsample})
    for name in ("dtype", "sage"):  # of an earlier export
        values.pop(name, None)
    for part in (values, text, vision):
        part.pop("auto_map", None)
    if layout == "internvl":
        token = image_token_id if image_token_id is not None else base.get("image_token_id")
        if token is None:
            raise WeightsError("export as internvl needs image_token_id, the id of <IMG_CONTEXT>")
        values.update(
            architectures=["InternVLForConditionalGeneration"],
            image_token_id=token,
            image_seq_length=model.tokens_per_tile,
            tie_word_embeddings=model.decoder.tie_embeddings,
        )
    else:
        values.update(architectures=["InternVLChatModel"], force_image_size=model.vit.tile_px, auto_map=AUTO_MAP)
    return values


def _text(decoder: DecoderConfig, text_model: TextModel, vocab_size: int, kept: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {theirs: getattr(decoder, ours) for ours, theirs in DECODER_FIELDS.items()}
    found["head_dim"] = decoder.width_of_head
    scaling = {**(kept.get("rope_scaling") or {}), **(kept.get("rope_parameters") or {})}
    kind = scaling.get("rope_type", scaling.get("type")) or "default"
    found["rope_theta"] = decoder.rope_theta
    if kind == "dynamic":
        found["rope_scaling"] = {"type": kind, "factor": scaling["factor"]}
    if text_model == "qwen2" and not decoder.head_dim:
        del found["head_dim"]  # its config has none unless it differs
    if text_model == "internlm2":
        found["bias"] = False
        del found["head_dim"]  # not a field of its config
    return {
        **found,
        "model_type": text_model,
        "architectures": [ARCHITECTURES[text_model]],
        "vocab_size": vocab_size,
        "hidden_act": "silu",
        "tie_word_embeddings": decoder.tie_embeddings,
    }


def _vision(model: ModelConfig, layout: Layout) -> dict[str, Any]:
    found: dict[str, Any] = {theirs: getattr(model.vit, ours) for ours, theirs in VIT_FIELDS[layout].items()}
    norms = {ours: theirs for theirs, ours in NORMS.items()}
    found["norm_type"] = norms[model.vit.norm]
    if layout == "internvl":
        side, patch = found["image_size"], found["patch_size"]
        found.update(image_size=[side, side], patch_size=[patch, patch], use_absolute_position_embeddings=True)
        return {**found, "model_type": "internvl_vision", "hidden_act": "gelu"}
    return {**found, "model_type": "intern_vit_6b", "architectures": ["InternVisionModel"], "hidden_act": "gelu"}
