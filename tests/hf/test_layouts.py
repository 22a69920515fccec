"""The tables name every key of the published checkpoints once, in both directions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from sage_jax.config import FusionConfig, MeshConfig, ModelConfig
from sage_jax.hf.config_fields import TEXT_MODELS, Layout, TextModel
from sage_jax.hf.importing import open_checkpoint, stored_shapes
from sage_jax.hf.layouts import (
    PLAIN,
    own_rows,
    param_shapes,
    plain_rows,
    spelled,
    tensors,
)
from sage_jax.sharding import make_mesh, param_shardings
from tests.support.tiny_internvl import MODEL

INTERNVL2_8B = {
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "force_image_size": 448,
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "qk_normalization": False,
        "image_size": 448,
        "patch_size": 14,
    },
    "llm_config": {
        "architectures": ["InternLM2ForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 92553,
        "rope_theta": 1000000,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "max_position_embeddings": 32768,
        "bias": False,
        "rms_norm_eps": 1e-5,
    },
}


def internvl2_8b_keys() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key of InternVL2-8B with its shape, from the published modules: InternViT-300M, mlp1, InternLM2-7B."""
    vit, wide, text, hidden, vocab = 1024, 4096, 4096, 14336, 92553
    yield "vision_model.embeddings.class_embedding", (1, 1, vit)
    yield "vision_model.embeddings.position_embedding", (1, 1 + (448 // 14) ** 2, vit)
    yield "vision_model.embeddings.patch_embedding.weight", (vit, 3, 14, 14)
    yield "vision_model.embeddings.patch_embedding.bias", (vit,)
    for layer in range(24):
        block = f"vision_model.encoder.layers.{layer}."
        for name in ("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            yield f"{block}{name}", (vit,)
        linears = {"attn.qkv": (3 * vit, vit), "attn.proj": (vit, vit), "mlp.fc1": (wide, vit), "mlp.fc2": (vit, wide)}
        for name, shape in linears.items():
            yield f"{block}{name}.weight", shape
            yield f"{block}{name}.bias", shape[:1]
    yield from (("mlp1.0.weight", (4 * vit,)), ("mlp1.0.bias", (4 * vit,)))
    yield from (("mlp1.1.weight", (text, 4 * vit)), ("mlp1.1.bias", (text,)))
    yield from (("mlp1.3.weight", (text, text)), ("mlp1.3.bias", (text,)))
    yield "language_model.model.tok_embeddings.weight", (vocab, text)
    for layer in range(32):
        block = f"language_model.model.layers.{layer}."
        yield f"{block}attention.wqkv.weight", ((32 + 2 * 8) * 128, text)
        yield f"{block}attention.wo.weight", (text, text)
        yield f"{block}feed_forward.w1.weight", (hidden, text)
        yield f"{block}feed_forward.w3.weight", (hidden, text)
        yield f"{block}feed_forward.w2.weight", (text, hidden)
        yield f"{block}attention_norm.weight", (text,)
        yield f"{block}ffn_norm.weight", (text,)
    yield "language_model.model.norm.weight", (text,)
    yield "language_model.output.weight", (vocab, text)


def write_hollow(folder: Path, keys: dict[str, tuple[int, ...]]) -> None:
    """Shards of the right sizes in which nothing is written but the headers: they take no room on the disk."""
    per_file = math.ceil(len(keys) / 4)
    places = {}
    for number in range(4):
        name = f"model-{number + 1:05d}-of-00004.safetensors"
        header, at = {}, 0
        for key, shape in list(keys.items())[number * per_file : (number + 1) * per_file]:
            header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + 2 * math.prod(shape)]}
            at += 2 * math.prod(shape)
            places[key] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_import_and_export_touch_every_key_of_internvl2_8b_once(tmp_path: Path) -> None:
    published = dict(internvl2_8b_keys())
    assert len(published) == 4 + 24 * 14 + 6 + 1 + 32 * 7 + 2
    assert round(sum(map(math.prod, published.values())) / 1e9, 2) == 8.08  # as its card says
    (tmp_path / "config.json").write_text(json.dumps(INTERNVL2_8B))
    write_hollow(tmp_path, published)
    checkpoint = open_checkpoint(tmp_path, ModelConfig(fusion=FusionConfig(num_heads=32)))
    assert checkpoint.config.max_positions == 32768

    shapes = {p: s for p, s in param_shapes(checkpoint.model, 92553).items() if p.startswith(PLAIN)}
    read = tensors(checkpoint.rows(), shapes)
    assert Counter(key for tensor in read for key in tensor.keys) == Counter(published.keys())
    assert stored_shapes(read) == published
    assert {tensor.row.path for tensor in read} == set(shapes)
    # As transformers' Llama, with queries, keys and values apart: as many numbers under more keys.
    exported = stored_shapes(tensors(plain_rows("internvl", "llama", checkpoint.model), shapes))
    assert sum(map(math.prod, exported.values())) == sum(map(math.prod, published.values()))
    assert len(exported) == len(published) + 24 * 4 + 32 * 2
    abstract = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    assert param_shardings(abstract, make_mesh(MeshConfig(1, 4, 2))).keys() == shapes.keys()


@pytest.mark.parametrize(
    ("layout", "text_model"), [(layout, name) for layout in TEXT_MODELS for name in TEXT_MODELS[layout]]
)
def test_no_two_rows_share_a_path_or_a_key(layout: Layout, text_model: TextModel) -> None:
    rows = plain_rows(layout, text_model, MODEL)
    for names in ([row.path for row in rows], [key for row in rows for key in row.keys]):
        assert len(set(names)) == len(names)
    assert all(spelled(key, layout) == key for row in rows for key in row.keys)


def test_own_parameters_are_called_as_torch_calls_modules() -> None:
    rows = own_rows(["fusion/attention/query/kernel", "fusion/norm/scale", "fact_encoder/decoder/blocks/mlp/up/kernel"])
    assert [row.keys[0] for row in rows] == [
        "fusion.attention.query.weight",
        "fusion.norm.weight",
        "fact_encoder.decoder.blocks.{layer}.mlp.up.weight",
    ]
    all_heads = dataclasses.replace(MODEL, fusion=dataclasses.replace(MODEL.fusion, head="all"))
    shapes = {path: shape for path, shape in param_shapes(all_heads, 16).items() if path.startswith("fusion/")}
    keys = {tensor.keys[0]: tensor.shape for tensor in tensors(own_rows(shapes), shapes)}
    assert len(keys) == len(shapes)
    width = all_heads.decoder.embed_dim
    for part in ("image", "question"):
        assert keys[f"fusion.{part}_head.norm.weight"] == keys[f"fusion.{part}_head.linear.bias"] == (width,)
        assert keys[f"fusion.{part}_head.linear.weight"] == (width, width)


def test_a_parameter_without_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vit/new' matches 0 rows"):
        tensors(plain_rows("internvl", "llama", MODEL), {"vit/new": (3,)})
