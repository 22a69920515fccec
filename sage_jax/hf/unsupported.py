"""What is said of a checkpoint that is none of ours: which model it is, or how it is quantised, and what to take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.hf.config_fields import TEXT_MODELS, Layout

_RELEASED: Final[dict[Layout, str]] = {
    "internvl": "OpenGVLab/InternVL3-1B-hf, InternVL3-*-hf, InternVL3_5-*-HF",
    "internvl_chat": "OpenGVLab/InternVL2-8B, InternVL2-*, InternVL2_5-*, InternVL3-*",
}
"""Names on the hub of each layout, an example first."""

_FAMILIES: Final = (
    ("qwen", "vl", "Qwen-VL"),
    ("qwen", "omni", "Qwen-Omni"),
    ("gemma", "", "Gemma"),
    ("paligemma", "", "PaliGemma"),
    ("llava", "", "LLaVA"),
    ("bunny", "", "LLaVA"),
    ("phi", "v", "Phi"),
    ("phi4_multimodal", "", "Phi"),
    ("minicpm", "", "MiniCPM"),
    ("mllama", "", "Llama Vision"),
    ("llama4", "", "Llama 4"),
    ("idefics", "", "Idefics"),
    ("smolvlm", "", "SmolVLM"),
    ("glm4v", "", "GLM-V"),
    ("deepseek_vl", "", "DeepSeek-VL"),
    ("kimi_vl", "", "Kimi-VL"),
    ("interns1", "", "Intern-S1"),
    ("intern_vit", "", "InternViT alone, a vision encoder without a decoder"),
    ("internvl_vision", "", "InternViT alone, a vision encoder without a decoder"),
)
"""Beginning of a `model_type`, what it must hold besides, and the family in words."""

_TEXT_ALONE: Final = re.compile(r"(qwen|llama|internlm|mistral|mixtral|phi|gpt|glm|deepseek)[\w-]*")

_METHODS: Final = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
}
_ENDS: Final = {
    "AWQ or GPTQ": (".qweight", ".qzeros", ".g_idx"),
    "bitsandbytes": (".SCB", ".absmax", ".quant_map"),
    "compressed-tensors": (".weight_packed", ".weight_zero_point"),
    "FP8 or INT8": (".weight_scale", ".weight_scale_inv", ".input_scale"),
    "an unnamed method": (".scales", ".zeros", ".qscale"),
}
"""Ends of the names of tensors that plain weights do not have, by method."""

_PACKED: Final = re.compile(r"[-_](awq|gptq|fp8|int[48]|w[48]a\d+|bnb|[48]bit|unsloth)\b.*", re.IGNORECASE)

_DEQUANTISED: Final = {
    "bitsandbytes": "model.dequantize()",
    "FP8": "quantization_config=FineGrainedFP8Config(dequantize=True)",
    "compressed-tensors": "quantization_config=CompressedTensorsConfig(dequantize=True)",
}
"""What transformers takes to give plain weights back; AWQ and GPTQ have no such way there."""


def supported_models() -> str:
    """What is read: each layout with its decoders and the checkpoints that have it."""
    names = (f"{layout} with {', '.join(models)} ({_RELEASED[layout]})" for layout, models in TEXT_MODELS.items())
    return f"{' and '.join(names)}, dense, with InternViT"


def other_model(model_type: Any) -> str:
    """Why a config.json's `model_type` is not read, in one sentence that names what is."""
    found = model_type.lower() if isinstance(model_type, str) else ""
    known = (words for start, holds, words in _FAMILIES if found.startswith(start) and holds in found)
    words = next(known, "a language model without a vision encoder" if _TEXT_ALONE.fullmatch(found) else "")
    said = f"this is {words}, not InternVL: " if words else ""
    return f"{said}model_type {model_type!r} is not supported; supported are {supported_models()}"


def quantised_config(values: Mapping[str, Any], folder: Path) -> str:
    """Why a quantised checkpoint is not read, in one sentence with the way out; "" where it is not quantised.

    Args:
      values: Its config.json; the decoder's section may say it too.
      folder: Its folder, whose name says what it was made from.
    """
    sections = [values, values.get("llm_config"), values.get("text_config")]
    found = (part.get("quantization_config") for part in sections if isinstance(part, Mapping))
    about = next((given for given in found if isinstance(given, Mapping) and given), None)
    if about is None:
        return ""
    loads = next((bits for bits in (4, 8) if about.get(f"load_in_{bits}bit")), None)
    method = str(about.get("quant_method") or ("bitsandbytes" if loads else "an unnamed method")).lower()
    bits = about.get("bits") or about.get("w_bit") or loads
    words = _METHODS.get(method, method)
    return _sentence(f"{words}, {bits} bits" if bits else words, folder, _DEQUANTISED.get(words, ""))


def quantised_tensors(tensors: Mapping[str, str], named: Iterable[str], folder: Path) -> str:
    """The same of a checkpoint whose config.json says nothing, by its tensors.

    Args:
      tensors: Dtype of each tensor by its key.
      named: Keys of all tensors, those that could not be read included.
      folder: Its folder.
    """
    keys = [*named]
    method = next((method for method, ends in _ENDS.items() if any(key.endswith(ends) for key in keys)), "")
    if not method and any(dtype.startswith("F8_") for dtype in tensors.values()):
        method = "FP8 or INT8"
    return _sentence(method, folder) if method else ""


def _sentence(method: str, folder: Path, way: str = "") -> str:
    """What it is, and what to take: the name without what was added to it, or the way back."""
    names = [part for part in folder.resolve().parts if _PACKED.search(part)]
    # The hub's cache calls the folder of a repository models--user--name.
    plain = _PACKED.sub("", names[-1]).removeprefix("models--").replace("--", "/") if names else ""
    back = f", or load it in transformers with {way} and save_pretrained, and take what that writes" if way else ""
    return (
        f"this is a quantised checkpoint ({method}), which cannot be read here: take "
        f"{plain or 'the one that it was made from'}, in bfloat16 or float16{back}"
    )
