"""A checkpoint's config.json and the model config that it stands for."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_jax.config import ConfigError, DecoderConfig, ModelConfig, VitConfig
from sage_jax.hf.config_fields import (
    ARCHITECTURES,
    DECODER_FIELDS,
    FIXED_TEXT,
    FIXED_TOP,
    FIXED_VISION,
    NORMS,
    TEXT_DEFAULTS,
    TEXT_MODELS,
    TEXT_SECTION,
    TOP_DEFAULTS,
    VISION_DEFAULTS,
    VIT_FIELDS,
    Layout,
    TextModel,
)
from sage_jax.hf.faults import WeightsError, listed, raise_any
from sage_jax.hf.unsupported import other_model, quantised_config, supported_models


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint's config.json says.

    Attributes:
      layout: `internvl` (transformers) or `internvl_chat` (OpenGVLab's InternVLChatModel).
      text_model: Decoder.
      vit, decoder: Their sizes. `decoder.tie_embeddings` is what the file says; the weights have the last word.
      downsample: Side of the square of patches that make one token.
      vocab_size: Rows of the token embedding, padding rows included.
      max_positions: Positions up to which RoPE is the one computed here; 0 = all. A `dynamic` scaling leaves RoPE as it
        is up to `max_position_embeddings` and changes it from there on.
      values: The whole file.
    """

    layout: Layout
    text_model: TextModel
    vit: VitConfig
    decoder: DecoderConfig
    downsample: int
    vocab_size: int
    max_positions: int
    values: Mapping[str, Any]

    def applied_to(self, model: ModelConfig) -> ModelConfig:
        """The model config with the checkpoint's sizes; what a checkpoint does not say (fusion, tiles) stays.

        Raises:
          ConfigError: A field that was set, so is not at its default, contradicts the checkpoint.
        """
        # An export of ours names its stem; else that of the config is new. LayerScale's start value is read by nobody.
        own = (self.values.get("sage") or {}).get("stem", {}).get("kind", model.vit.stem)
        vit = dataclasses.replace(self.vit, layer_scale=model.vit.layer_scale, stem=own)
        for name, found in (("vit", vit), ("decoder", self.decoder)):
            given = getattr(model, name)
            for field in dataclasses.fields(given):
                value, theirs = getattr(given, field.name), getattr(found, field.name)
                if value not in (field.default, theirs):
                    raise ConfigError(
                        f"config.model.{name}.{field.name} = {value!r}, but {self._their_name(name, field.name)} of "
                        f"the weights' config.json makes it {theirs!r}: leave the field out"
                    )
        if model.downsample not in (ModelConfig.downsample, self.downsample):
            raise ConfigError(
                f"config.model.downsample = {model.downsample}, but downsample_ratio of the weights' config.json makes "
                f"it {self.downsample}: leave the field out"
            )
        try:
            return dataclasses.replace(model, vit=vit, decoder=self.decoder, downsample=self.downsample)
        except ConfigError as error:
            raise ConfigError(f"config.model.{error} (from the weights' config.json)") from None

    def _their_name(self, section: str, field: str) -> str:
        if section == "vit":
            return f"vision_config.{VIT_FIELDS[self.layout].get(field, field)}"
        others = {"rope_theta": "rope_theta", "tie_embeddings": "tie_word_embeddings"}
        by_model = "the architecture" if field in ("qkv_bias", "qk_norm") else {**others, **DECODER_FIELDS}[field]
        return f"{TEXT_SECTION[self.layout]}.{by_model}"


def read_checkpoint_config(folder: Path) -> CheckpointConfig:
    """The config.json of a checkpoint folder.

    Raises:
      WeightsError: It is missing or not JSON, or the model is not one that is supported; every reason is listed, with
        what is supported.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file; give the folder of a downloaded checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}); download it again") from None
    given = values.get("model_type") if isinstance(values, dict) else None
    layout: Layout | None = next((name for name in TEXT_MODELS if name == given), None)
    if layout is None:
        raise WeightsError(f"{path}: {other_model(given)}")
    if quantised := quantised_config(values, folder):
        raise WeightsError(f"{path}: {quantised}")
    return _Reader(folder, layout, values).read()


class _Reader:
    """Reads one config.json, collecting what is wrong with it."""

    def __init__(self, folder: Path, layout: Layout, values: dict[str, Any]) -> None:
        self.folder, self.values = folder, values
        self.layout: Layout = layout
        self.faults: list[str] = []

    def read(self) -> CheckpointConfig:
        section = TEXT_SECTION[self.layout]
        given = self._section(section)
        text_model = self._text_model(given, section)
        text = {**TEXT_DEFAULTS[text_model], **given}
        vision = {**VISION_DEFAULTS[self.layout], **self._section("vision_config")}
        top = {**TOP_DEFAULTS[self.layout], **self.values}
        self._check_fixed("", top, FIXED_TOP[self.layout])
        self._check_fixed("vision_config.", vision, FIXED_VISION)
        self._check_fixed(f"{section}.", text, FIXED_TEXT)
        raise_any(self.folder / "config.json", self.faults)
        if self.layout == "internvl":  # either flag ties, as transformers does
            text["tie_word_embeddings"] = text["tie_word_embeddings"] or self.values.get("tie_word_embeddings", False)
        rope_theta, max_positions = self._rope(text, section)
        vit = self._vit(vision)
        decoder = self._decoder(text, text_model, section, rope_theta)
        vocab_size = self._whole(f"{section}.", text, "vocab_size")
        ratio = top["downsample_ratio"]
        downsample = round(1 / ratio) if isinstance(ratio, (int, float)) and 0 < ratio <= 1 else 0
        if not downsample or downsample * ratio != 1:
            self.faults.append(f"downsample_ratio = {ratio!r}: supported are 1, 0.5, 0.25 and so on")
        raise_any(self.folder / "config.json", self.faults)
        assert vit is not None and decoder is not None
        return CheckpointConfig(
            self.layout, text_model, vit, decoder, downsample, vocab_size, max_positions, copy.deepcopy(self.values)
        )

    def _section(self, name: str) -> dict[str, Any]:
        given = self.values.get(name)
        if not isinstance(given, dict):
            self.faults.append(f"{name}: missing, or not an object")
            return {}
        return given

    def _text_model(self, text: dict[str, Any], section: str) -> TextModel:
        architectures = text.get("architectures")
        found = architectures[0] if isinstance(architectures, list) and architectures else text.get("model_type")
        for name in TEXT_MODELS[self.layout]:
            if found in (name, ARCHITECTURES[name]):
                return name
        experts = " (a mixture of experts)" if "moe" in str(found).lower() else ""
        fault = f"{section}: the decoder {found!r}{experts} is not supported; supported are {supported_models()}"
        raise listed(self.folder / "config.json", [*self.faults, fault])

    def _check_fixed(self, prefix: str, values: dict[str, Any], fixed: dict[str, Any]) -> None:
        for name, wanted in fixed.items():
            found = values.get(name)
            if found is not None and found != wanted:
                self.faults.append(f"{prefix}{name} = {found!r} is not supported; supported is {wanted!r}")

    def _whole(self, prefix: str, values: dict[str, Any], name: str) -> int:
        """A whole number above 0; of a square's two sides the one that they share."""
        value: Any = values[name]
        if name in ("image_size", "patch_size") and isinstance(value, list) and value and value == value[:1] * 2:
            value = value[0]
        if type(value) is not int or value <= 0:
            self.faults.append(f"{prefix}{name} = {value!r}: expected a whole number above 0")
            return 1
        return value

    def _real(self, prefix: str, values: dict[str, Any], name: str) -> float:
        value: Any = values[name]
        if type(value) not in (int, float) or not 0 < value < math.inf:
            self.faults.append(f"{prefix}{name} = {value!r}: expected a number above 0")
            return 1.0
        return float(value)

    def _flag(self, prefix: str, values: dict[str, Any], name: str) -> bool:
        if not isinstance(values[name], bool):
            self.faults.append(f"{prefix}{name} = {values[name]!r}: expected true or false")
        return bool(values[name])

    def _vit(self, vision: dict[str, Any]) -> VitConfig | None:
        prefix = "vision_config."
        found: dict[str, Any] = {}
        for ours, theirs in VIT_FIELDS[self.layout].items():
            if ours == "norm":
                found[ours] = next((norm for name, norm in NORMS.items() if name == vision[theirs]), None)
                if found[ours] is None:
                    self.faults.append(f"{prefix}{theirs} = {vision[theirs]!r}: supported are {', '.join(NORMS)}")
            elif ours in ("qkv_bias", "qk_norm"):
                found[ours] = self._flag(prefix, vision, theirs)
            else:
                found[ours] = (self._real if ours == "norm_eps" else self._whole)(prefix, vision, theirs)
        if self.layout == "internvl" and found["qk_norm"] and found["norm_eps"] != 1e-6:
            # transformers builds these norms with their default eps, whatever the config says
            self.faults.append(f"{prefix}layer_norm_eps = {found['norm_eps']} with use_qk_norm: supported is 1e-06")
        forced = self.values.get("force_image_size")
        if forced and forced != found["tile_px"]:
            self.faults.append(
                f"force_image_size = {forced} but vision_config.image_size = {found['tile_px']}: only equal sizes are "
                "supported"
            )
        return self._built(VitConfig, prefix, found)

    def _decoder(
        self, text: dict[str, Any], text_model: TextModel, section: str, rope_theta: float
    ) -> DecoderConfig | None:
        prefix = f"{section}."
        if text["num_key_value_heads"] is None:
            text["num_key_value_heads"] = text["num_attention_heads"]
        default_head = text["head_dim"] is None
        found: dict[str, Any] = {
            ours: (self._real if ours == "norm_eps" else self._whole)(prefix, text, theirs)
            for ours, theirs in DECODER_FIELDS.items()
            if ours != "head_dim" or not default_head
        }
        if found.get("head_dim", 0) * found["num_heads"] == found["embed_dim"]:
            del found["head_dim"]  # the width that our 0 stands for
        variant = {"qkv_bias": text_model == "qwen2", "qk_norm": text_model == "qwen3", "rope_theta": rope_theta}
        tied = self._flag(prefix, text, "tie_word_embeddings")
        return self._built(DecoderConfig, prefix, {**found, **variant, "tie_embeddings": tied})

    def _rope(self, text: dict[str, Any], section: str) -> tuple[float, int]:
        """RoPE's base, and the positions up to which it is plain RoPE; 0 = all."""
        scaling: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            given = text.get(name) or {}
            if not isinstance(given, dict):
                self.faults.append(f"{section}.{name} = {given!r}: expected an object")
            else:
                scaling.update(given)
        theta = scaling.get("rope_theta", text.get("rope_theta")) or 10_000.0
        kind = scaling.get("rope_type", scaling.get("type")) or "default"
        if scaling.get("partial_rotary_factor", 1.0) != 1.0:
            self.faults.append(f"{section}: a partial RoPE is not supported; supported is RoPE on the whole head")
        if kind not in ("default", "dynamic"):
            self.faults.append(
                f"{section}: RoPE scaling {kind!r} is not supported; supported are none, and dynamic within "
                "max_position_embeddings"
            )
        limit = 0
        if kind == "dynamic":
            limit = self._whole(f"{section}.", text, "max_position_embeddings")
            self._real(f"{section}: RoPE scaling 'dynamic': ", {"factor": scaling.get("factor")}, "factor")
        return self._real(f"{section}.", {"rope_theta": theta}, "rope_theta"), limit

    def _built(self, cls: Any, prefix: str, fields: dict[str, Any]) -> Any:
        if self.faults:
            return None
        try:
            return cls(**fields)
        except ConfigError as error:
            self.faults.append(f"{prefix}{error}")
            return None
