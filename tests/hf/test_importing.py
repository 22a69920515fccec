"""Imported weights compute what transformers computes, on any mesh; faults are found before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from transformers import InternVLForConditionalGeneration

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, DecoderConfig, MeshConfig
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import Checkpoint, import_params, open_checkpoint
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import make_mesh, param_shardings
from tests.support.tiny_internvl import (
    MODEL,
    imported,
    save_internvl,
    save_original,
    shapes_of,
    to_bfloat16,
    torch_internvl,
)
from tests.support.tiny_sage import PLACEHOLDERS, VOCAB_SIZE, Tree, batch_of, on_device, random_params


def sage_with(checkpoint: Checkpoint, params: Params, vocab_size: int = VOCAB_SIZE) -> Sage:
    """The model of imported parameters; SAGE's own are random, and no comparison embedding is in the prompts here."""
    own = {path: leaf for path, leaf in shapes_of(checkpoint, vocab_size).items() if path not in params}
    graphdef, _ = split(nnx.eval_shape(lambda: Sage(checkpoint.model, vocab_size, PLACEHOLDERS, nnx.Rngs(0))))
    return merge(graphdef, {**random_params(own), **params})


def prompts(num_tiles: tuple[int, ...] = (1, 2)) -> TreeBatch:
    """Rows of one and of several tiles, with a few words."""
    rng = np.random.default_rng(0)
    words = rng.integers(8, VOCAB_SIZE, (len(num_tiles), 12)).tolist()
    trees: list[Tree | None] = [
        Tree(tiles, 0, True, row[:5], [(row[5:], [])]) for tiles, row in zip(num_tiles, words, strict=True)
    ]
    return batch_of(trees, rng)


@jax.jit
def logits_of(sage: Sage, batch: TreeBatch) -> jax.Array:
    hidden, _ = sage(batch)
    return sage.decoder.logits(hidden)


def torch_logits(peer: InternVLForConditionalGeneration, batch: TreeBatch) -> list[np.ndarray]:
    """Logits of each row's tokens, computed by transformers."""
    pixels = (batch.tiles / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = []
    for row in range(len(batch.tiles)):
        shown = pixels[row][np.asarray(batch.tile_mask[row])].transpose(0, 3, 1, 2)
        ids = torch.tensor(batch.token_ids[row][np.asarray(batch.token_mask[row])][None], dtype=torch.long)
        with torch.no_grad():
            found.append(peer(input_ids=ids, pixel_values=torch.tensor(shown, dtype=torch.float32)).logits[0].numpy())
    return found


def assert_same_logits(checkpoint: Checkpoint, params: Params, peer: InternVLForConditionalGeneration) -> None:
    batch = prompts()
    found = np.asarray(logits_of(sage_with(checkpoint, params), on_device(batch)))
    for row, expected in enumerate(torch_logits(peer, batch)):
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found[row][np.asarray(batch.token_mask[row])], expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("text_model", "vit", "tied"), [("llama", "300m", False), ("qwen2", "6b", True), ("qwen3", "300m", False)]
)
def test_logits_equal_transformers_in_its_own_layout(tmp_path: Path, text_model: str, vit: str, tied: bool) -> None:
    peer = torch_internvl(text_model, vit, tie_word_embeddings=tied)
    checkpoint = open_checkpoint(save_internvl(peer, tmp_path), MODEL)
    assert (checkpoint.config.layout, checkpoint.config.text_model) == ("internvl", text_model)
    assert checkpoint.model.decoder.tie_embeddings == tied
    assert_same_logits(checkpoint, imported(checkpoint), peer)


@pytest.mark.parametrize(("text_model", "vit"), [("internlm2", "300m"), ("qwen2", "6b")])
def test_logits_equal_transformers_in_the_original_layout(tmp_path: Path, text_model: str, vit: str) -> None:
    peer = torch_internvl("llama" if text_model == "internlm2" else text_model, vit)
    checkpoint = open_checkpoint(save_original(peer, tmp_path / "original", text_model), MODEL)
    assert (checkpoint.config.layout, checkpoint.config.text_model) == ("internvl_chat", text_model)
    assert_same_logits(checkpoint, imported(checkpoint), peer)


@pytest.mark.parametrize("text_model", ["internlm2", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("vit", ["300m", "6b"])
def test_both_layouts_of_one_model_import_the_same(tmp_path: Path, text_model: str, vit: str) -> None:
    peer = torch_internvl("llama" if text_model == "internlm2" else text_model, vit)
    first = open_checkpoint(save_internvl(peer, tmp_path / "own", sharded=False), MODEL)
    second = open_checkpoint(save_original(peer, tmp_path / "original", text_model), MODEL)
    assert first.model == second.model
    one, other = imported(first), imported(second)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def test_a_mesh_gets_what_one_device_gets(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl("qwen2"), tmp_path), MODEL)
    shapes = shapes_of(checkpoint)
    shardings = param_shardings(shapes, make_mesh(MeshConfig(2, 2, 2)))
    split_up, whole = import_params(checkpoint, shapes, shardings), imported(checkpoint)
    assert split_up.keys() == whole.keys()
    for path, leaf in split_up.items():
        assert leaf.sharding.is_equivalent_to(shardings[path], leaf.ndim), path
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
    for path, sharding in shardings.items():  # the same without the axes that are whole at the end
        axes = list(sharding.spec)
        while axes and axes[-1] is None:
            axes.pop()
        shardings[path] = NamedSharding(sharding.mesh, PartitionSpec(*axes))
    for path, leaf in import_params(checkpoint, shapes, shardings).items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
    shared = [path for path, leaf in split_up.items() if not leaf.sharding.is_fully_replicated]
    assert len(shared) > 10


def test_every_parameter_is_filled_from_every_key(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path), MODEL)
    params = imported(checkpoint)
    assert {path for path in shapes_of(checkpoint) if not path.startswith(("fusion/", "fact_encoder/"))} == set(params)
    total = sum(int(np.prod(tensor.shape)) for tensor in checkpoint.stored.values())
    assert sum(leaf.size for leaf in params.values()) == total


def aligned(path: Path) -> None:
    """Puts the file's tensors where a CPU's arrays may share the memory of the mapped file."""
    tensors = sorted(load_file(path).items(), key=lambda item: item[1].nbytes % 64)
    header, at = {}, 0
    for key, values in tensors:
        header[key] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for _, values in tensors))


def test_parameters_do_not_hang_on_the_file(tmp_path: Path) -> None:
    """A CPU's arrays may share memory with what they were made of; these must not, since steps write into them."""
    file = save_internvl(torch_internvl(), tmp_path, sharded=False) / "model.safetensors"
    aligned(file)
    params = imported(open_checkpoint(tmp_path, MODEL))
    before = {path: np.array(leaf) for path, leaf in params.items()}
    with file.open("r+b") as opened:
        size = opened.seek(0, 2)
        opened.seek(8)
        opened.write(b"\x7f" * (size - 8))
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def test_new_tokens_leave_every_logit_as_it_was(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path), MODEL)
    shapes = shapes_of(checkpoint, VOCAB_SIZE + 4)
    shardings = param_shardings(shapes, make_mesh(MeshConfig(4, 1, 2)))
    more, plain = import_params(checkpoint, shapes, shardings), imported(checkpoint)
    for path, axis in (("decoder/embedding/embedding", 0), ("decoder/output/kernel", 1)):
        table, old = np.moveaxis(np.asarray(more[path]), axis, 0), np.moveaxis(np.asarray(plain[path]), axis, 0)
        np.testing.assert_array_equal(table[:VOCAB_SIZE], old)
        np.testing.assert_allclose(table[VOCAB_SIZE:], np.repeat(old.mean(0, keepdims=True), 4, axis=0), atol=1e-6)
    batch = prompts()
    one, other = (
        np.asarray(logits_of(sage_with(checkpoint, jax.device_get(params), size), on_device(batch)))[batch.token_mask]
        for params, size in ((plain, VOCAB_SIZE), (more, VOCAB_SIZE + 4))
    )
    np.testing.assert_allclose(other[..., :VOCAB_SIZE], one, atol=1e-6)


def test_a_model_with_fewer_tokens_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path), MODEL)
    arrays = len(jax.live_arrays())
    with pytest.raises(WeightsError, match="the checkpoint has 48 tokens, the model 40"):
        imported(checkpoint, 40)
    assert len(jax.live_arrays()) == arrays


def test_bfloat16_weights_become_the_same_float32(tmp_path: Path) -> None:
    peer = to_bfloat16(torch_internvl())
    params = imported(open_checkpoint(save_internvl(peer, tmp_path), MODEL))
    expected = peer.state_dict()["model.language_model.layers.1.mlp.up_proj.weight"].float().numpy().T
    assert params["decoder/blocks/mlp/up/kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(params["decoder/blocks/mlp/up/kernel"][1], expected)


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Changes the tensors of the folder's single file."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("same", [True, False])
def test_an_output_layer_beside_a_tied_embedding_counts_where_it_differs(tmp_path: Path, same: bool) -> None:
    peer = torch_internvl("qwen2", tie_word_embeddings=True)
    save_internvl(peer, tmp_path, sharded=False)

    def add_output(weights: dict[str, np.ndarray]) -> None:
        table = weights["language_model.model.embed_tokens.weight"]
        weights["language_model.lm_head.weight"] = table.copy() if same else table[::-1].copy()

    rewrite(tmp_path, add_output)
    checkpoint = open_checkpoint(tmp_path, MODEL)
    assert checkpoint.model.decoder.tie_embeddings == same
    assert_same_logits(checkpoint, imported(checkpoint), InternVLForConditionalGeneration.from_pretrained(tmp_path))


def test_keys_in_the_names_of_modules_are_read_too(tmp_path: Path) -> None:
    save_internvl(torch_internvl(), tmp_path, sharded=False)
    expected = imported(open_checkpoint(tmp_path, MODEL))

    def respell(weights: dict[str, np.ndarray]) -> None:
        for key in list(weights):
            name = key.replace("language_model.lm_head", "lm_head")
            if name == key:
                name = "model." + key.replace("language_model.model.", "language_model.")
            weights[name] = weights.pop(key)

    rewrite(tmp_path, respell)
    found = imported(open_checkpoint(tmp_path, MODEL))
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def test_fields_that_contradict_the_checkpoint_are_named_with_theirs(tmp_path: Path) -> None:
    save_internvl(torch_internvl(), tmp_path)
    wrong = dataclasses.replace(MODEL, decoder=DecoderConfig(num_layers=5))
    with pytest.raises(
        ConfigError, match=r"config\.model\.decoder\.num_layers = 5, but text_config\.num_hidden_layers.* 2"
    ):
        open_checkpoint(tmp_path, wrong)
    right = dataclasses.replace(MODEL, decoder=DecoderConfig(num_layers=2))
    assert open_checkpoint(tmp_path, right).model.decoder.num_layers == 2


@pytest.mark.parametrize("value", (np.nan, np.inf))
@pytest.mark.parametrize("part", ("up_proj", "norm"))
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, value: float, part: str) -> None:
    folder = save_internvl(torch_internvl("qwen2"), tmp_path, sharded=False)
    (file,) = folder.glob("*.safetensors")
    stored = load_file(file)
    name = next(key for key in sorted(stored) if part in key and "language_model" in key)
    stored[name].reshape(-1)[-1] = value
    save_file(stored, file, metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder, MODEL)
    with pytest.raises(WeightsError) as told:
        imported(checkpoint)
    assert f"tensor {name} holds values that are not finite" in str(told.value) and str(file) in str(told.value)
