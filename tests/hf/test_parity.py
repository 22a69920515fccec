"""Whole prompts against transformers: tiles, one and two images, either padding, every layout; and what they answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType

from sage_jax.batch import TreeBatch
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.generation.sampling import Sampling
from sage_jax.hf.importing import Checkpoint, open_checkpoint
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import MESH_AXES
from tests.support.tiny_internvl import MODEL, imported, save_internvl, save_original, shapes_of, torch_internvl
from tests.support.tiny_sage import PLACEHOLDERS, VOCAB_SIZE, batch_of, on_device, random_params

TILES = ((1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2))
"""Tiles of the test image and of a reference in the prompt, of each row."""

LAYOUTS = [
    *(("internvl", text_model) for text_model in ("llama", "qwen2", "qwen3")),
    *(("internvl_chat", text_model) for text_model in ("internlm2", "llama", "qwen2", "qwen3")),
]
NEW = 64
TWO_IMAGES = dataclasses.replace(PLACEHOLDERS, reference=True)


def loaded(
    folder: Path, layout: str, text_model: str, *, livelier: float = 1.0, **options: Any
) -> tuple[Checkpoint, Any]:
    """A checkpoint of random weights, those of its decoder's layers scaled, and transformers' model of the same."""
    torch.manual_seed(1)  # whatever other tests have drawn
    peer = torch_internvl("llama" if text_model == "internlm2" else text_model, **options)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "language_model.layers" in name and "norm" not in name:
                parameter.mul_(livelier)
    path = save_internvl(peer, folder) if layout == "internvl" else save_original(peer, folder / "it", text_model)
    return open_checkpoint(path, MODEL), peer


def structure(checkpoint: Checkpoint) -> tuple[nnx.GraphDef[Sage], Params]:
    """The checkpoint's model, of two images; SAGE's own parameters are random, and no prompt here has use for them."""
    params = imported(checkpoint)
    own = {path: leaf for path, leaf in shapes_of(checkpoint).items() if path not in params}
    graphdef, _ = split(nnx.eval_shape(lambda: Sage(checkpoint.model, VOCAB_SIZE, TWO_IMAGES, nnx.Rngs(0))))
    return graphdef, jax.device_get({**random_params(own), **params})


@pytest.fixture(scope="module")
def batch() -> TreeBatch:
    """Prompts of words and images, with one question each: rows are padded at their end."""
    rng = np.random.default_rng(0)
    found = batch_of([None] * len(TILES), rng, num_questions=1)
    for row, tiles in enumerate(TILES):
        ids: list[int] = []
        for number in tiles:
            ids += [*rng.integers(8, VOCAB_SIZE, 2 + row % 3).tolist(), *[PLACEHOLDERS.image] * (4 * number)]
        ids += (question := rng.integers(8, VOCAB_SIZE, 3 + row).tolist())
        size = len(ids)
        found.token_ids[row, :size], found.token_mask[row, :size] = ids, True
        found.position_ids[row, :size] = np.arange(size)
        found.question_index[row, size - len(question) : size] = 0
        found.source_index[row, 0, :, 0] = size - 1
        for mask, number in zip((found.tile_mask, found.reference_tile_mask), tiles, strict=True):
            mask[row, :number] = True
    found.question_ids[:], found.record_index[:] = 0, np.arange(len(TILES))
    longest = int((found.question_index == -1).sum(axis=1, where=found.token_mask).max())
    return dataclasses.replace(found, prefix_slots=longest, question_slots=3 + len(TILES))


def torch_inputs(batch: TreeBatch, rows: list[int], padding: str = "left") -> dict[str, torch.Tensor]:
    """The same prompts for transformers, padded on the other side or on the same."""
    lengths = [int(batch.token_mask[row].sum()) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    mask = np.zeros(ids.shape, np.int64)
    tiles = []
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        here = slice(ids.shape[1] - length, None) if padding == "left" else slice(length)
        ids[at, here], mask[at, here] = batch.token_ids[row, :length], 1
        tiles += [batch.tiles[row][batch.tile_mask[row]], batch.reference_tiles[row][batch.reference_tile_mask[row]]]
    pixels = (np.concatenate(tiles) / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "pixel_values": torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
    }


@jax.jit
def logits_of(sage: Sage, batch: TreeBatch) -> jax.Array:
    hidden, _ = sage(batch)
    return sage.decoder.logits(hidden)


@pytest.mark.parametrize(("layout", "text_model"), LAYOUTS)
def test_logits_equal_transformers(layout: str, text_model: str, batch: TreeBatch, tmp_path: Path) -> None:
    checkpoint, peer = loaded(tmp_path, layout, text_model)
    assert (checkpoint.config.layout, checkpoint.config.text_model) == (layout, text_model)
    found = np.asarray(logits_of(merge(*structure(checkpoint)), on_device(batch)))[np.asarray(batch.token_mask)]
    for padding in ("left", "right"):
        inputs = torch_inputs(batch, list(range(len(TILES))), padding)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            expected = peer(**inputs, position_ids=positions).logits[inputs["attention_mask"].bool()].numpy()
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0.0)


def test_each_image_has_its_own_place_in_the_prompt(batch: TreeBatch, tmp_path: Path) -> None:
    """Parity alone would not see whether transformers' logits depend on the reference at all."""
    sage = merge(*structure(loaded(tmp_path, "internvl", "llama")[0]))
    other = batch.reference_tiles.copy()
    other[4, 0] = 255 - other[4, 0]
    before, after = (
        np.asarray(logits_of(sage, on_device(each)))
        for each in (batch, dataclasses.replace(batch, reference_tiles=other))
    )
    first = int(np.flatnonzero(batch.token_ids[4] == PLACEHOLDERS.image)[8])  # behind the test image's two tiles
    changed = np.abs(before - after).max(axis=-1) > 1e-6
    assert not changed[[0, 1, 2, 3, 5]].any() and not changed[4, :first].any() and changed[4, first:].any()


@pytest.mark.parametrize("text_model", ["internlm2", "qwen2", "qwen3"])
def test_greedy_answers_are_transformers_for_64_tokens(text_model: str, batch: TreeBatch, tmp_path: Path) -> None:
    layout = "internvl_chat" if text_model == "internlm2" else "internvl"
    checkpoint, peer = loaded(tmp_path, layout, text_model, livelier=6.0)
    peer.generation_config.eos_token_id = None
    mesh = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    graphdef, params = structure(checkpoint)

    def answers(how: Sampling) -> np.ndarray:
        decoding = Decoding(NEW, end_id=-1, verdict_ids=((10,), (11,)), sampling=how)
        return np.asarray(Responder(graphdef, params, mesh, decoding).answer(batch).token_ids[:, 0])

    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    inputs = torch_inputs(batch, list(range(len(TILES))))
    expected = peer.generate(**inputs, **options)[:, -NEW:].numpy()
    assert min(len(set(row)) for row in expected.tolist()) > 5
    np.testing.assert_array_equal(answers(Sampling()), expected)
    if text_model != "internlm2":
        return  # the penalty knows nothing of the model
    how = Sampling(repetition_penalty=1.4)
    found = answers(how)
    for row in (0, 5):  # each alone: transformers' penalty counts the padding of a batch as said
        alone = peer.generate(**torch_inputs(batch, [row]), **options, repetition_penalty=1.4)[0, -NEW:].numpy()
        np.testing.assert_array_equal(found[row], alone)
        assert (alone != expected[row]).any()
