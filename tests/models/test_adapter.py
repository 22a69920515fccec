"""Pixel shuffle and projector against transformers' in torch."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

from sage_jax.models.adapter import Adapter, pixel_shuffle
from sage_jax.parameters import merge, split
from tests.support.transformers_weights import adapter_params, randomise, weights_of


def test_pixel_shuffle_is_internvls() -> None:
    patches = np.random.default_rng(0).normal(size=(2, 36, 5)).astype(np.float32)
    grid = torch.tensor(patches).reshape(2, 6, 6, 5)
    unbuilt = cast(InternVLModel, None)  # the method reads nothing of its model
    expected = InternVLModel.pixel_shuffle(unbuilt, grid, 0.5).reshape(2, 9, 20)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(patches), rows=6, columns=6, fold=2), expected.numpy())


@pytest.mark.parametrize(("rows", "columns", "fold"), [(4, 6, 2), (3, 9, 3), (2, 5, 1)])
def test_every_token_holds_its_own_square_row_by_row(rows: int, columns: int, fold: int) -> None:
    patches = np.random.default_rng(1).normal(size=(1, rows * columns, 2)).astype(np.float32)
    found = np.asarray(pixel_shuffle(jnp.asarray(patches), rows=rows, columns=columns, fold=fold))
    grid = patches.reshape(rows, columns, 2)
    for token in range(found.shape[1]):
        top, left = fold * (token // (columns // fold)), fold * (token % (columns // fold))
        np.testing.assert_array_equal(found[0, token], grid[top : top + fold, left : left + fold].ravel())


def test_projector_equals_transformers() -> None:
    vision, text = InternVLVisionConfig(hidden_size=5), LlamaConfig(hidden_size=12, num_attention_heads=2)
    peer = InternVLMultiModalProjector(InternVLConfig(vision_config=vision, text_config=text)).eval()
    randomise(peer)
    weights = weights_of(peer)
    params = {path.removeprefix("adapter/"): jnp.asarray(x) for path, x in adapter_params(weights, "").items()}
    assert not weights
    graphdef, _ = split(nnx.eval_shape(lambda: Adapter(20, 12, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))))
    tokens = np.random.default_rng(2).normal(0.0, 3.0, (2, 7, 20)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.tensor(tokens)).numpy()
    found = jax.jit(lambda adapter, tokens: adapter(tokens))(merge(graphdef, params), jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, atol=1e-5)
