"""The sharding table covers every parameter once, and a mesh computes what one device does."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from sage_jax import sharding
from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, MeshConfig, ModelConfig, PreferenceConfig, TrainConfig
from sage_jax.parameters import Params, merge
from sage_jax.sharding import (
    ShardingError,
    batch_sharding,
    constrain,
    logical_axes,
    make_mesh,
    opt_state_shardings,
    param_shardings,
    parameter_spec,
)
from sage_jax.training.objectives import PreferenceObjective, SftObjective
from sage_jax.training.optim import make_optimizer
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import TINY, random_batch, random_params, structure

CUBE = MeshConfig(data=2, fsdp=2, tensor=2)
OBJECTIVES = {
    "sft": SftObjective(similarity_weight=0.7),
    "edpo": PreferenceObjective(PreferenceConfig(beta=0.5, eta=0.3, bco_weight=0.2, sft_weight=0.5)),
}


def options() -> dict[str, ModelConfig]:
    """Configs that turn every option of the model at least once."""

    def changed(part: str, **values: Any) -> ModelConfig:
        return dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **values)})

    internvit_6b = changed("vit", norm="rms", qk_norm=True, qkv_bias=False)
    qwen3 = dataclasses.replace(TINY.decoder, qk_norm=True, qkv_bias=True, head_dim=6)
    hidden = dataclasses.replace(TINY.fusion, fact_encoder="hidden_mean", difference="none", difference_places=False)
    hidden = dataclasses.replace(hidden, head="all")
    stem = changed("vit", stem="conv", tile_px=16, patch_px=4, embed_dim=16)
    marked = dataclasses.replace(TINY.fusion, difference="residual", mark_image=True)
    return {
        "tiny": TINY,
        "stem_and_marks": dataclasses.replace(stem, fusion=marked),
        "similarity_tied": dataclasses.replace(
            changed("fusion", difference="similarity"), decoder=dataclasses.replace(TINY.decoder, tie_embeddings=True)
        ),
        "everything": dataclasses.replace(internvit_6b, decoder=qwen3, fusion=hidden),
    }


@pytest.mark.parametrize("name", options())
def test_every_parameter_matches_exactly_one_row(name: str) -> None:
    _, shapes = structure(options()[name])
    mesh = make_mesh(CUBE)
    for path, leaf in shapes.items():
        assert len(logical_axes(path)) == len(leaf.shape), path
        split = parameter_spec(path, leaf.shape, mesh)
        assert len(leaf.shape) < 2 or path.endswith(("scale", "bias", "_scale")) or any(split), f"{path} is never split"


def test_every_row_matches_some_parameter() -> None:
    paths = {path for config in options().values() for path in structure(config)[1]}
    for pattern, axes in sharding.PARAMETER_AXES:
        assert any(logical_axes(path) == axes and re.fullmatch(pattern, path) for path in paths), pattern


def test_a_parameter_of_no_row_or_of_two_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardingError, match="'decoder/lora' matches 0 rows"):
        logical_axes("decoder/lora")
    with pytest.raises(ShardingError, match="'fusion/difference' has 2 axes, its row .* 1"):
        parameter_spec("fusion/difference", (2, 3), make_mesh(CUBE))
    rows = (*sharding.PARAMETER_AXES, (r"fusion/.*", ("none",)))
    monkeypatch.setattr(sharding, "PARAMETER_AXES", rows)
    with pytest.raises(ShardingError, match="'fusion/difference' matches 2 rows"):
        logical_axes("fusion/difference")


def test_an_axis_that_its_mesh_axes_do_not_divide_stays_whole() -> None:
    mesh = make_mesh(CUBE)
    assert parameter_spec("adapter/linear_1/bias", (6,), mesh) == PartitionSpec(("tensor",))
    assert parameter_spec("adapter/linear_1/bias", (7,), mesh) == PartitionSpec(None)


def test_one_mesh_axis_may_take_what_the_others_leave() -> None:
    assert dict(make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(MeshConfig(data=1, fsdp=-1, tensor=1)).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (2, 2, 1)])
def test_a_mesh_that_is_not_the_devices_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"mesh: data = .* do not make the 8 devices"):
        make_mesh(MeshConfig(*sizes))


def test_constrain_splits_under_a_mesh_and_is_the_identity_without() -> None:
    x = jnp.arange(32.0).reshape(8, 4)
    assert constrain(x, "batch", "mlp") is x
    mesh = make_mesh(CUBE)
    with jax.set_mesh(mesh):
        split = jax.jit(lambda x: constrain(2.0 * x, "batch", "mlp"))(x)
    assert split.addressable_shards[0].data.shape == (2, 2)
    np.testing.assert_array_equal(split, 2.0 * x)


def one_device() -> Mesh:
    return jax.make_mesh((1, 1, 1), sharding.MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])


@pytest.mark.parametrize(("optimizer_name", "of_layers"), [("adamw", 3), ("muon", 2)])
def test_parameters_and_moments_are_really_split(optimizer_name: Literal["adamw", "muon"], of_layers: int) -> None:
    mesh = make_mesh(CUBE)
    _, shapes = structure()
    params = jax.device_put(random_params(shapes), param_shardings(shapes, mesh))
    optimizer = make_optimizer(TrainConfig(optimizer=optimizer_name))
    shardings = opt_state_shardings(jax.eval_shape(optimizer.init, params), mesh)
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    split = {
        "decoder/blocks/mlp/up/kernel": (2, 8, 12),
        "decoder/blocks/attention/qkv/kernel": (2, 8, 16),
        "decoder/output/kernel": (8, 24),
        "vit/blocks/mlp/down/kernel": (2, 8, 4),
        "fusion/attention/out/kernel": (8, 8),
    }
    found = {path: 0 for path in split}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path((params, state)):
        path = next((str(key.key) for key in reversed(key_path) if isinstance(key, jax.tree_util.DictKey)), "")
        if path in split:
            assert leaf.addressable_shards[0].data.shape == split[path], key_path
            found[path] += 1
    assert found.pop("decoder/output/kernel") == 3, "a parameter and its two moments"
    assert set(found.values()) == {of_layers}, "Muon keeps one of a layer's matrix"


@functools.cache
def loss_and_gradient(objective: str, cube: bool) -> tuple[jax.Array, Params]:
    graphdef, shapes = structure()
    batch = random_batch(3, rows=7, padding_rows=1)
    mesh = make_mesh(CUBE) if cube else one_device()

    def loss(params: Params, batch: TreeBatch) -> jax.Array:
        terms = OBJECTIVES[objective]
        return terms(merge(graphdef, params), batch, terms.normalizers(batch))[0]

    with jax.set_mesh(mesh):
        shardings = param_shardings(shapes, mesh)
        params = jax.device_put(random_params(shapes), shardings)
        placed = jax.device_put(batch, batch_sharding(mesh))
        return jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings), compiler_options=QUICK)(
            params, placed
        )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_on_a_cube_of_devices_equal_one_device(objective: str) -> None:
    loss, gradient = loss_and_gradient(objective, cube=False)
    cube_loss, cube_gradient = loss_and_gradient(objective, cube=True)
    assert cube_gradient["decoder/output/kernel"].addressable_shards[0].data.shape == (8, 24)
    np.testing.assert_allclose(cube_loss, loss, rtol=1e-5)
    largest = max(float(np.abs(leaf).max()) for leaf in gradient.values())
    for path in gradient:
        # Some are zero on paper (a key bias moves every logit of a softmax alike): what they hold is rounding.
        atol = max(1e-5 * float(np.abs(gradient[path]).max()), 1e-7 * largest)
        np.testing.assert_allclose(cube_gradient[path], gradient[path], rtol=1e-5, atol=atol, err_msg=path)
    np.testing.assert_array_equal(gradient["fact_encoder/embedding/embedding"], 0.0)  # frozen by the model itself
    moved = [path for path in gradient if np.abs(gradient[path]).max() > 0.0]
    assert len(moved) == len(gradient) - 1
