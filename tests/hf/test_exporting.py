"""What was imported is exported bit for bit, and stock transformers computes the same with what is exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import InternVLForConditionalGeneration

from sage_jax.config import MeshConfig
from sage_jax.hf.config_fields import Dtype
from sage_jax.hf.exporting import export_checkpoint
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import Checkpoint, import_params, open_checkpoint
from sage_jax.models.sage import copy_text_encoder
from sage_jax.parameters import Params
from sage_jax.sharding import make_mesh, param_shardings
from tests.support.tiny_internvl import (
    MODEL,
    imported,
    internlm2_wqkv,
    save_internvl,
    save_original,
    shapes_of,
    stored_bytes,
    to_bfloat16,
    torch_internvl,
)
from tests.support.tiny_sage import random_params


def whole_sage(checkpoint: Checkpoint, params: Params) -> Params:
    """All parameters: the imported ones, a trained (random) fusion and the fact encoder that stage 1 starts with."""
    own = {path: leaf for path, leaf in shapes_of(checkpoint).items() if path not in params}
    return copy_text_encoder({**random_params(own), **params})


def peer_logits(peer: InternVLForConditionalGeneration) -> np.ndarray:
    """Logits of a prompt with two tiles, by transformers."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[5, 6, *[3] * 8, 7, 9, 11, 13]])
    with torch.no_grad():
        pixels = torch.randn((2, 3, 8, 8), generator=generator).to(peer.dtype)
        return peer(input_ids=ids, pixel_values=pixels).logits[0].float().numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("text_model", "vit", "tied"), [("llama", "300m", False), ("qwen2", "6b", True)])
def test_export_of_import_is_the_same_bit_for_bit_and_stock_transformers_loads_it(
    tmp_path: Path, dtype: Dtype, text_model: str, vit: str, tied: bool
) -> None:
    peer = torch_internvl(text_model, vit, tie_word_embeddings=tied)
    peer = to_bfloat16(peer) if dtype == "bfloat16" else peer
    source = save_internvl(peer, tmp_path / "source")
    checkpoint = open_checkpoint(source, MODEL)
    shapes = shapes_of(checkpoint)
    params = import_params(checkpoint, shapes, param_shardings(shapes, make_mesh(MeshConfig(2, 2, 2))))
    export_checkpoint(
        whole_sage(checkpoint, params),
        checkpoint.model,
        tmp_path / "out",
        dtype=dtype,
        base=checkpoint.config.values,
        max_shard_bytes=6_000,
    )
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert stored_bytes(tmp_path / "out") == stored_bytes(source)
    before, after = (
        InternVLForConditionalGeneration.from_pretrained(folder, dtype="auto") for folder in (source, tmp_path / "out")
    )
    assert after.dtype == peer.dtype
    np.testing.assert_array_equal(peer_logits(after), peer_logits(before))


@pytest.mark.parametrize(("text_model", "vit"), [("internlm2", "300m"), ("qwen3", "6b")])
def test_the_original_layout_comes_back_bit_for_bit(tmp_path: Path, text_model: str, vit: str) -> None:
    peer = torch_internvl("llama" if text_model == "internlm2" else text_model, vit)
    source = save_original(peer, tmp_path / "source", text_model)
    checkpoint = open_checkpoint(source, MODEL)
    params = imported(checkpoint)
    export_checkpoint(
        params,
        checkpoint.model,
        tmp_path / "out",
        layout="internvl_chat",
        dtype="float32",
        base=checkpoint.config.values,
    )
    assert stored_bytes(tmp_path / "out") == stored_bytes(source)
    about, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", source))
    assert about["auto_map"]["AutoModel"] == before["auto_map"]["AutoModel"]
    assert about["template"] == before["template"]
    assert open_checkpoint(tmp_path / "out", MODEL).config.max_positions == 512


def test_the_original_layout_has_an_output_layer_where_the_embedding_is_it_too(tmp_path: Path) -> None:
    """OpenGVLab's InternVLChatConfig unties the two whatever the file says."""
    peer = torch_internvl("qwen2", tie_word_embeddings=True)
    checkpoint = open_checkpoint(save_internvl(peer, tmp_path / "source"), MODEL)
    params = imported(checkpoint)
    assert "decoder/output/kernel" not in params
    options: Any = {"dtype": "float32", "image_token_id": 3, "base": checkpoint.config.values}
    export_checkpoint(params, checkpoint.model, tmp_path / "out", layout="internvl_chat", **options)
    stored = stored_bytes(tmp_path / "out")
    embedding = stored["language_model.model.embed_tokens.weight"]
    assert stored["language_model.lm_head.weight"] == embedding and len(embedding[2]) > 0
    again = open_checkpoint(tmp_path / "out", MODEL)
    assert again.config.decoder.tie_embeddings and again.model == checkpoint.model
    back = imported(again)
    assert set(back) == set(params)
    assert all(bool((back[path] == leaf).all()) for path, leaf in params.items())


@pytest.mark.parametrize("text_model", ["internlm2", "qwen2"])
def test_an_original_checkpoint_becomes_one_that_stock_transformers_loads(tmp_path: Path, text_model: str) -> None:
    peer = torch_internvl("llama" if text_model == "internlm2" else text_model)
    checkpoint = open_checkpoint(save_original(peer, tmp_path / "source", text_model), MODEL)
    export_checkpoint(
        imported(checkpoint),
        checkpoint.model,
        tmp_path / "out",
        dtype="float32",
        image_token_id=3,
        base=checkpoint.config.values,
    )
    again = InternVLForConditionalGeneration.from_pretrained(tmp_path / "out")
    text = again.config.to_dict()["text_config"]
    assert (text["eos_token_id"], text["rope_parameters"]["rope_type"]) == (2, "dynamic")
    np.testing.assert_allclose(peer_logits(again), peer_logits(peer), atol=1e-6)


def test_a_model_made_here_is_exported_to_either_layout(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "source"), MODEL)
    params = imported(checkpoint)
    for layout in ("internvl", "internvl_chat"):
        export_checkpoint(params, checkpoint.model, tmp_path / layout, layout=layout, dtype="float32", image_token_id=3)
        found = imported(open_checkpoint(tmp_path / layout, MODEL))
        for path in params:
            np.testing.assert_array_equal(found[path], params[path], err_msg=path)
    with pytest.raises(WeightsError, match="image_token_id"):
        export_checkpoint(params, checkpoint.model, tmp_path / "no_token")


@pytest.mark.parametrize("head", ["comparison", "all"])
def test_the_fusion_comes_back_and_the_fact_encoder_where_it_is_its_own(tmp_path: Path, head: Any) -> None:
    model = dataclasses.replace(MODEL, fusion=dataclasses.replace(MODEL.fusion, head=head))
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "source"), model)
    params = whole_sage(checkpoint, imported(checkpoint))
    trained = {**params, "decoder/embedding/embedding": params["decoder/embedding/embedding"] + 1.0}
    for name, sage in (("copied", params), ("own", trained)):
        export_checkpoint(sage, checkpoint.model, tmp_path / name, dtype="float32", base=checkpoint.config.values)
        again = open_checkpoint(tmp_path / name, model)
        assert again.has_fusion and again.has_fact_encoder == (name == "own")
        found = imported(again)
        assert {path for path in sage if path.startswith("fusion/")} < found.keys()
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, sage[path], err_msg=path)
    InternVLForConditionalGeneration.from_pretrained(tmp_path / "own")  # which does not mind the file beside


def test_internlm2_weights_are_written_as_published(tmp_path: Path) -> None:
    peer = torch_internvl("llama")
    checkpoint = open_checkpoint(save_original(peer, tmp_path / "source", "internlm2"), MODEL)
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((rows, 16)).astype(np.float32) for rows in (16, 8, 8))
    params = imported(checkpoint)
    stack = np.array(params["decoder/blocks/attention/qkv/kernel"])
    stack[1] = internlm2_wqkv(query, key, value).T
    params = {**params, "decoder/blocks/attention/qkv/kernel": jnp.asarray(stack)}
    values, model = checkpoint.config.values, checkpoint.model
    for layout in ("internvl", "internvl_chat"):
        export_checkpoint(
            params, model, tmp_path / layout, layout=layout, dtype="float32", image_token_id=3, base=values
        )
    fused = stored_bytes(tmp_path / "internvl_chat")["language_model.model.layers.1.attention.wqkv.weight"]
    assert fused == ("F32", (32, 16), internlm2_wqkv(query, key, value).tobytes())
    apart = stored_bytes(tmp_path / "internvl")
    for name, rows in (("q", query), ("k", key), ("v", value)):
        stored = apart[f"language_model.model.layers.1.self_attn.{name}_proj.weight"]
        assert stored == ("F32", rows.shape, rows.tobytes())


def test_a_failed_export_leaves_nothing_and_an_old_one_is_not_touched(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "source"), MODEL)
    params = imported(checkpoint)

    def fail(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        export_checkpoint(params, checkpoint.model, tmp_path / "out", image_token_id=3, add_files=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    with pytest.raises(WeightsError, match="is there already"):
        export_checkpoint(params, checkpoint.model, tmp_path / "source", image_token_id=3)


def test_the_devices_hold_no_array_more_after_an_export(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path / "source"), MODEL)
    params = imported(checkpoint)
    before = len(jax.live_arrays())
    export_checkpoint(params, checkpoint.model, tmp_path / "out", image_token_id=3)
    assert len(jax.live_arrays()) == before
