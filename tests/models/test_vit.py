"""The vision encoder against transformers' in torch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from sage_jax.config import ModelConfig, VitConfig
from sage_jax.models.vit import ConvStem, Vit, bicubic_weights, normalise
from sage_jax.parameters import merge, split
from tests.support.tiny_sage import TINY, random_params
from tests.support.transformers_weights import randomise, vit_params, weights_of


def torch_pixels(tiles: np.ndarray) -> torch.Tensor:
    """Tiles as transformers' processor gives them: standardised, channels first."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (tiles.astype(np.float64) / 255.0 - mean) / deviation
    return torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)


def vit_pair(config: ModelConfig) -> tuple[InternVLVisionModel, Vit]:
    """The same random weights in torch and here."""
    vit = config.vit
    peer = InternVLVisionModel(
        InternVLVisionConfig(
            image_size=vit.tile_px,
            patch_size=vit.patch_px,
            hidden_size=vit.embed_dim,
            num_hidden_layers=vit.num_layers,
            num_attention_heads=vit.num_heads,
            intermediate_size=vit.mlp_dim,
            attention_bias=vit.qkv_bias,
            use_qk_norm=vit.qk_norm,
            norm_type="layer_norm" if vit.norm == "layer" else "rms_norm",
            layer_norm_eps=vit.norm_eps,
        )
    ).eval()
    randomise(peer)
    weights = weights_of(peer)
    params = {path.removeprefix("vit/"): values for path, values in vit_params(weights, config, "").items()}
    assert not weights, f"never used: {sorted(weights)}"
    graphdef, shapes = split(
        nnx.eval_shape(lambda: Vit(vit, dtype=jnp.dtype("float32"), remat="none", unroll=1, rngs=nnx.Rngs(0)))
    )
    assert {path: leaf.shape for path, leaf in shapes.items()} == {path: leaf.shape for path, leaf in params.items()}
    return peer, merge(graphdef, {path: jnp.asarray(values) for path, values in params.items()})


PLAIN = TINY
INTERNVIT_6B = dataclasses.replace(TINY, vit=dataclasses.replace(TINY.vit, norm="rms", qk_norm=True, qkv_bias=False))


@pytest.mark.parametrize("config", [PLAIN, INTERNVIT_6B], ids=["internvit_300m", "internvit_6b"])
@pytest.mark.parametrize("size", [(8, 8), (16, 12)], ids=["tile_px", "resized_positions"])
def test_features_equal_transformers(config: ModelConfig, size: tuple[int, int]) -> None:
    peer, vit = vit_pair(config)
    tiles = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    with torch.no_grad():
        expected = peer(torch_pixels(tiles)).last_hidden_state[:, 1:].numpy()
    found = jax.jit(lambda vit, tiles: vit(tiles))(vit, jnp.asarray(tiles))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("sizes", [((4, 4), (7, 3)), ((16, 16), (5, 16)), ((3, 3), (32, 9))])
def test_positions_are_resized_as_torch_does(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (rows, columns), (new_rows, new_columns) = sizes
    grid = np.random.default_rng(1).normal(size=(rows, columns, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid.transpose(2, 0, 1))[None], size=(new_rows, new_columns), mode="bicubic", align_corners=False
    )[0].numpy()
    down, across = bicubic_weights(rows, new_rows), bicubic_weights(columns, new_columns)
    np.testing.assert_allclose(np.einsum("rs,cu,sud->drc", down, across, grid), expected, atol=1e-5)


def test_pixels_are_standardised_by_imagenet_means() -> None:
    tiles = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = torch_pixels(tiles).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(normalise(jnp.asarray(tiles), jnp.dtype("float32")), expected, atol=1e-6)
    assert normalise(jnp.asarray(tiles), jnp.dtype("bfloat16")).dtype == jnp.bfloat16


def test_tiles_do_not_see_each_other() -> None:
    _, vit = vit_pair(PLAIN)
    tiles = np.random.default_rng(3).integers(0, 256, (3, 8, 8, 3), np.uint8)
    run = jax.jit(lambda vit, tiles: vit(tiles))
    before = run(vit, jnp.asarray(tiles))
    tiles[1] = 255 - tiles[1]
    after = run(vit, jnp.asarray(tiles))
    np.testing.assert_array_equal(after[np.array([0, 2])], before[np.array([0, 2])])
    assert not np.allclose(after[1], before[1], atol=0.1)


def torch_stem(stem: ConvStem, pixels: np.ndarray) -> torch.Tensor:
    """The stem's features written out with torch's convolutions, `SAME` padding and all."""
    x = torch.tensor(pixels.transpose(0, 3, 1, 2))
    for layer in stem.convolutions:
        kernel = torch.tensor(np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1))
        size, stride = kernel.shape[-1], layer.stride
        whole = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
        first, last = whole // 2, whole - whole // 2
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (first, last, first, last)), kernel, stride=stride)
        scale, bias = (torch.tensor(np.asarray(leaf[...])) for leaf in (layer.norm.scale, layer.norm.bias))
        normed = torch.nn.functional.layer_norm(x.movedim(1, -1), (x.shape[1],), scale, bias, 1e-6)
        x = torch.nn.functional.gelu(normed).movedim(-1, 1)
    assert stem.out.bias is not None
    kernel, bias = (torch.tensor(np.asarray(leaf[...])) for leaf in (stem.out.kernel, stem.out.bias))
    return x.flatten(2).transpose(1, 2) @ kernel + bias


@pytest.mark.parametrize(("patch_px", "side"), [(4, 16), (8, 32), (16, 48)])
def test_the_stems_features_are_those_of_torchs_convolutions(patch_px: int, side: int) -> None:
    config = VitConfig(tile_px=side, patch_px=patch_px, stem="conv", embed_dim=32, num_heads=2, mlp_dim=8)

    def create() -> ConvStem:
        return ConvStem(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    stem = merge(graphdef, random_params(shapes))
    pixels = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    found = stem(jnp.asarray(pixels))
    assert found.shape == (2, (side // patch_px) ** 2, 32)
    with torch.no_grad():
        expected = torch_stem(stem, pixels).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_an_untrained_stem_leaves_the_encoder_as_it_is() -> None:
    config = dataclasses.replace(TINY.vit, patch_px=4, stem="patch")
    tiles = np.random.default_rng(2).integers(0, 256, (2, config.tile_px, config.tile_px, 3), dtype=np.uint8)

    with_stem = dataclasses.replace(config, stem="conv")
    graphdef, params = split(Vit(with_stem, dtype=jnp.dtype("float32"), remat="none", unroll=1, rngs=nnx.Rngs(0)))
    bare_def, bare = split(Vit(config, dtype=jnp.dtype("float32"), remat="none", unroll=1, rngs=nnx.Rngs(0)))
    shared = random_params(bare)
    np.testing.assert_array_equal(
        merge(graphdef, {**params, **shared})(jnp.asarray(tiles)), merge(bare_def, shared)(jnp.asarray(tiles))
    )
