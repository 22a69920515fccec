"""The frozen ViT beside the step: the model's own features, from the ViT's parameters alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.config import MeshConfig
from sage_jax.features.encoder import VitEncoder
from sage_jax.parameters import merge
from sage_jax.sharding import make_mesh, param_shardings
from tests.support.tiny_sage import TINY, random_params, structure


@pytest.mark.parametrize("mesh", [MeshConfig(data=4, tensor=2), MeshConfig(data=2, fsdp=4)])
def test_features_are_those_of_the_model_split_over_all_devices(mesh: MeshConfig) -> None:
    graphdef, shapes = structure()
    params, devices = random_params(shapes), make_mesh(mesh)
    placed = jax.device_put(params, param_shardings(params, devices))
    encode = VitEncoder(graphdef, placed, devices)
    tiles = np.random.default_rng(0).integers(0, 256, (encode.at_once(5), 8, 8, 3), np.uint8)
    found = encode(tiles)
    assert isinstance(found, jax.Array) and len(tiles) == 8
    assert found.sharding.shard_shape(found.shape)[0] == 8 // (devices.shape["data"] * devices.shape["fsdp"])
    np.testing.assert_allclose(found, merge(graphdef, params).vit_features(jnp.asarray(tiles)), atol=1e-5)
    assert encode.at_once(10**6) == 8 * devices.shape["data"] * devices.shape["fsdp"]
    # What the mesh holds already is not held twice.
    (kept,) = (leaf for path, leaf in encode.params.items() if path == "vit/position_embedding")
    shards = kept.addressable_shards, placed["vit/position_embedding"].addressable_shards
    assert [s.data.unsafe_buffer_pointer() for s in shards[0]] == [s.data.unsafe_buffer_pointer() for s in shards[1]]
    assert all(path.startswith("vit/") for path in encode.params)


def test_it_compiles_once_and_needs_no_other_part_of_the_model() -> None:
    graphdef, shapes = structure()
    params = {path: leaf for path, leaf in random_params(shapes).items() if path.startswith("vit/")}
    others = {path: leaf for path, leaf in shapes.items() if path not in params}
    encode = VitEncoder(graphdef, {**others, **params}, make_mesh(MeshConfig()))
    for seed in range(2):
        assert encode(np.full((8, 8, 8, 3), seed, np.uint8)).shape == (8, 4, TINY.vit.embed_dim * 4)
    assert encode.num_compiled == 1
