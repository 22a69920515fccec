"""Defaults of a config.json's fields, as transformers has them, and tables that fit together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import InternVLVisionConfig, LlamaConfig, Qwen2Config, Qwen3Config

from sage_jax.config import DecoderConfig, VitConfig
from sage_jax.hf.config_fields import (
    ARCHITECTURES,
    DECODER_FIELDS,
    FIXED_TOP,
    TEXT_DEFAULTS,
    TEXT_MODELS,
    TEXT_SECTION,
    TOP_DEFAULTS,
    VISION_DEFAULTS,
    VIT_FIELDS,
    TextModel,
)


@pytest.mark.parametrize(("name", "config"), [("llama", LlamaConfig), ("qwen2", Qwen2Config), ("qwen3", Qwen3Config)])
def test_text_defaults_are_those_of_transformers(name: TextModel, config: Any) -> None:
    theirs = config()
    for field, value in TEXT_DEFAULTS[name].items():
        found = getattr(theirs, field, None)
        if field in ("num_key_value_heads", "head_dim") and value is None:  # resolved when it is built
            value = {"num_key_value_heads": theirs.num_attention_heads, "head_dim": found}[field]
        assert found == value, field
    assert theirs.rope_parameters["rope_theta"] == 10_000.0


def test_vision_defaults_are_those_of_transformers() -> None:
    theirs = InternVLVisionConfig()
    for field, value in VISION_DEFAULTS["internvl"].items():
        found = getattr(theirs, field)
        assert (list(found) if isinstance(found, tuple) else found) == value, field


def test_the_tables_of_both_layouts_fit_together() -> None:
    layouts = set(TEXT_MODELS)
    assert layouts == TEXT_SECTION.keys() == VISION_DEFAULTS.keys() == TOP_DEFAULTS.keys() == FIXED_TOP.keys()
    models = {model for each in TEXT_MODELS.values() for model in each}
    assert models == TEXT_DEFAULTS.keys() == ARCHITECTURES.keys()
    for layout, fields in VIT_FIELDS.items():
        assert fields.keys() <= {field.name for field in dataclasses.fields(VitConfig)}
        # Every size of the ViT has a default, or no checkpoint that leaves it out could be read.
        assert set(fields.values()) <= VISION_DEFAULTS[layout].keys()
    assert DECODER_FIELDS.keys() <= {field.name for field in dataclasses.fields(DecoderConfig)}
