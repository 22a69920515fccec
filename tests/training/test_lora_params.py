"""Stages with LoRA: what trains and is saved, what an import keeps, and a run of the program through both stages."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from sage_jax.config import ConfigError, LoraConfig, MeshConfig, from_config_dict
from sage_jax.hf.importing import import_params, open_checkpoint
from sage_jax.models.lora import TRAINED, fold, merge_adapters, structure_of
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import logical_axes, make_mesh, opt_state_shardings, param_shardings
from sage_jax.stages.run import Run
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import load_final
from sage_jax.training.lora_params import adapted_layers, adapted_parts, keep, start_params, start_shapes
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import init_state
from tests.support.tiny_internvl import MODEL, imported, save_internvl, shapes_of, torch_internvl
from tests.support.tiny_run import TinyRun, read_jsonl, run_main
from tests.support.tiny_sage import structure
from tests.support.tiny_training import LONG, TRAIN, ScorePredictor, SignallingLoader, assert_same, rows_of, run_stage

ON_ADAPTER = LoraConfig(rank=2, alpha=8.0, targets=("adapter/",))
"""LoRA of the small model of test_train, which has an adapter and one layer of a ViT."""
BASES = ("float32", "bfloat16", "int8", "int4")


def predictor(lora: LoraConfig) -> ScorePredictor:
    params = start_params(dict(split(ScorePredictor(nnx.Rngs(0)))[1]), lora, seed=0)
    abstract = nnx.eval_shape(lambda: ScorePredictor(nnx.Rngs(0)))
    return merge(structure_of(abstract, params, scale=lora.scale), params)


def with_base(base: Any) -> LoraConfig:
    return dataclasses.replace(ON_ADAPTER, base=base)


def sage_start(lora: LoraConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return start_shapes(structure()[1], lora)


@pytest.mark.parametrize("base", ["float32", "int8", "int4"])
def test_training_moves_the_adapters_alone_and_the_loss_goes_down(tmp_path: Path, base: str):
    lora = with_base(base)
    before = split(predictor(lora))[1]
    result = run_stage(tmp_path, TRAIN, model=predictor(lora))
    moved = {path for path, leaf in result.params.items() if np.any(np.asarray(leaf) != np.asarray(before[path]))}
    assert moved == {f"adapter/linear_{i}/{name}" for i in (1, 2) for name in TRAINED}
    losses = [row["loss"] for row in rows_of(tmp_path)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert_same(load_final(tmp_path / "sfe"), result.params)


def test_resumed_training_of_adapters_on_four_bit_kernels_is_that_of_an_uninterrupted_one_to_the_bit(tmp_path: Path):
    lora = with_base("int4")
    whole = run_stage(tmp_path / "whole", LONG, model=predictor(lora))
    stopped = run_stage(tmp_path / "cut", LONG, model=predictor(lora), loader=SignallingLoader(at=5))
    assert stopped.interrupted
    with StageCheckpoints(tmp_path / "cut" / "sfe", keep_last=1) as checkpoints:
        assert checkpoints.latest_step == stopped.steps < LONG.steps
    resumed = run_stage(tmp_path / "cut", LONG, model=predictor(lora))
    assert f"resumed from step {stopped.steps}" in (tmp_path / "cut" / "log.txt").read_text()
    assert_same(resumed.params, whole.params)


def test_optimizer_state_is_of_what_trains_alone_and_has_shardings():
    lora = LoraConfig(rank=2, targets=("decoder/", "vit/blocks/attention/"), base="int8")
    shapes: Any = sage_start(lora)
    trainable, frozen = partition(shapes, ("fact_encoder/", "vit/"))
    assert {path for path in trainable if path.startswith(("decoder/", "vit/"))} == {
        path for path in shapes if path.endswith(TRAINED)
    }
    assert {path.split("/")[0] for path in trainable} == {"decoder", "vit", "adapter", "fusion"}
    optimizer = make_optimizer(LONG)
    state = jax.eval_shape(lambda params: init_state(params, optimizer=optimizer), trainable)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in trainable.values())
    opt_state_shardings(state.opt_state, make_mesh(MeshConfig(2, 2, 2)))
    assert trainable.keys() | frozen.keys() == shapes.keys() and not trainable.keys() & frozen.keys()


@pytest.mark.parametrize("base", BASES)
def test_the_sharding_table_covers_adapters_and_quantised_kernels(base: Any):
    lora = LoraConfig(rank=2, targets=("decoder/", "vit/", "adapter/"), base=base)
    shapes = sage_start(lora)
    shardings = param_shardings(shapes, make_mesh(MeshConfig(2, 2, 2)))
    assert shardings.keys() == shapes.keys()
    for path, leaf in shapes.items():
        assert len(logical_axes(path)) == len(leaf.shape), path
    up = "decoder/blocks/mlp/up"
    assert logical_axes(f"{up}/lora_a") == ("layers", "embed", "none")
    assert logical_axes(f"{up}/lora_b") == ("layers", "none", "mlp")
    assert logical_axes("adapter/linear_2/base_b") == ("none", "embed")
    assert shardings[f"{up}/lora_b"].shard_shape(shapes[f"{up}/lora_b"].shape) == (2, 2, 12)
    assert shardings[f"{up}/kernel"].shard_shape(shapes[f"{up}/kernel"].shape)[2] == 12


def test_loss_and_gradients_with_adapters_on_a_cube_of_devices_equal_one_device():
    lora = dataclasses.replace(with_base("int4"), rank=4)
    graphdef, params = split(predictor(lora))
    rng = np.random.default_rng(0)
    moved = {
        p: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
        for p, leaf in params.items()
        if p.endswith(TRAINED)
    }
    x = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)

    def loss(trainable: Params, params: Params) -> jax.Array:
        model = merge(graphdef, params | trainable)
        return jnp.sum(jnp.square(model.adapter.linear_2(jnp.tanh(model.adapter.linear_1(x)))))

    trainable = {path: leaf for path, leaf in (params | moved).items() if path.endswith(TRAINED)}
    expected = jax.value_and_grad(loss)(trainable, params)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(each, param_shardings(each, mesh)) for each in (trainable, params)]
        found = jax.jit(jax.value_and_grad(loss))(*placed)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(rank=2, targets=("decodr/",)), r"'decodr/' matches no layer .* did you mean 'decoder/"),
        (LoraConfig(rank=2, targets=("decoder/", "fusion/")), "'fusion/' matches no layer that may have adapters"),
        (LoraConfig(rank=2, targets=("vit/(",)), r"'vit/\(' is no regular expression"),
    ],
)
def test_targets_that_cannot_be_meant_are_refused(lora: LoraConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        adapted_layers(structure()[1], lora)


def test_an_odd_number_of_rows_is_refused_for_four_bits():
    with pytest.raises(ConfigError, match="adapter/linear_1 has 7 rows, an odd number; use int8"):
        keep("adapter/linear_1/kernel", jnp.ones((7, 4)), "int4", {"adapter"})


def test_an_import_keeps_kernels_small_one_by_one_and_gives_what_keeping_all_gives(tmp_path: Path):
    checkpoint = open_checkpoint(save_internvl(torch_internvl(), tmp_path), MODEL)
    lora = LoraConfig(rank=2, targets=("decoder/",), base="int4")
    shapes = shapes_of(checkpoint)
    parts = adapted_parts(shapes, lora)
    whole = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), jax.P())
    seen: list[str] = []
    before = jax.live_arrays()  # of tests that ran before this one, in the same process

    def kept(path: str, leaf: jax.Array) -> Params:
        made = [array for array in jax.live_arrays() if all(array is not other for other in before)]
        live = {array.shape for array in made if array.dtype == jnp.float32 and array.ndim == 3}
        wide = {shapes[earlier].shape for earlier in seen if earlier.startswith("decoder/blocks/mlp/up")}
        assert not wide & (live - {leaf.shape}) or path.endswith("gate/kernel")
        seen.append(path)
        return keep(path, leaf, lora.base, parts)

    found = import_params(checkpoint, shapes, dict.fromkeys(shapes, whole), kept)
    plain = imported(checkpoint)
    assert sorted(seen) == sorted(plain)
    expected = {
        p: leaf for path, plain_leaf in plain.items() for p, leaf in keep(path, plain_leaf, "int4", parts).items()
    }
    assert_same(found, expected)
    started = start_params(dict(found), lora, seed=0)
    for path, leaf in found.items():
        assert started[path] is leaf


def test_base_models_are_not_trained_with_lora():
    with pytest.raises(ConfigError, match="base.lora.rank = 4: base models are trained from scratch"):
        from_config_dict({"base": {"lora": {"rank": 4}}})


@pytest.fixture(scope="module")
def lora_run(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, dict[str, Any]]:
    """Both stages with LoRA on int8 kernels and their evaluation, from the base model of the shared run."""
    folder = tmp_path_factory.mktemp("lora")
    for name in ("cache", "run/stages/base", "run/tokenizer"):
        shutil.copytree(tiny_run.folder / name, folder / name)
    run = run_main(
        folder,
        "--config.stages=sfe,edpo,evaluate,export",
        "--config.sfe.steps=4",
        "--config.sfe.lora.rank=4",
        "--config.sfe.lora.base=int8",
        "--config.edpo.steps=2",
        "--config.edpo.lora.rank=2",
        "--config.edpo.lora.targets=('decoder/blocks/attention/',)",
        "--config.edpo.lora.base=int8",
        "--config.evaluate.stages=('sfe', 'edpo')",
    )
    return run, json.loads((run.run_dir / "config.json").read_text(encoding="utf-8"))


def test_a_run_trains_both_stages_with_lora_and_scores_them(lora_run: tuple[TinyRun, dict[str, Any]]) -> None:
    run, config = lora_run
    assert run.summary()["metrics"].keys() == {"sfe", "edpo"}
    base, sfe, edpo = (load_final(run.run_dir / "stages" / name) for name in ("base", "sfe", "edpo"))
    layer = "decoder/blocks/attention/qkv"
    np.testing.assert_array_equal(
        sfe[f"{layer}/kernel"], keep(f"{layer}/kernel", base[f"{layer}/kernel"], "int8", {"decoder"})[f"{layer}/kernel"]
    )
    for path, leaf in sfe.items():
        if path.startswith("decoder/") and not path.endswith(TRAINED):
            np.testing.assert_array_equal(edpo[path], leaf, err_msg=path)
    np.testing.assert_array_equal(edpo[f"{layer}/base_a"], sfe[f"{layer}/lora_a"])
    assert np.abs(np.asarray(edpo[f"{layer}/lora_b"])).max() > 0.0
    assert "decoder/blocks/mlp/up/lora_a" not in edpo
    plain = Run(from_config_dict(config)).weights.merged("edpo", wanted_by="test")
    assert {path: leaf.shape for path, leaf in plain.items()} == {path: leaf.shape for path, leaf in base.items()}
    expected = merge_adapters(fold(edpo, scale=32.0 / 2))
    assert_same(plain, expected)


def test_the_policy_starts_at_its_reference(lora_run: tuple[TinyRun, dict[str, Any]]) -> None:
    """The reference is the stage-1 model: before the first step, the reward of every answer is zero."""
    rows = [row for row in read_jsonl(lora_run[0].run_dir / "metrics.jsonl") if row["stage"] == "edpo"]
    assert abs(rows[0]["reward_margin"]) < 1e-4 < abs(rows[1]["reward_margin"])


def test_a_stage_with_lora_leaves_its_adapters_beside(lora_run: tuple[TinyRun, dict[str, Any]]) -> None:
    run, _ = lora_run
    for name, rank in (("sfe", 4), ("edpo", 6)):
        folder = run.run_dir / "stages" / name
        final = load_final(folder)
        alone = load_file(folder / "lora.safetensors")
        assert alone and alone.keys() == {path for path in final if path.endswith(("_a", "_b"))}
        about = json.loads((folder / "peft" / "adapter_config.json").read_text())
        # stage 1 trains the adapter MLP whole, and it comes along
        assert (about["r"], about["modules_to_save"]) == (rank, ["multi_modal_projector"])
        stored = load_file(folder / "peft" / "adapter_model.safetensors")
        assert stored["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"].shape[0] == rank
        np.testing.assert_array_equal(
            stored["base_model.model.model.multi_modal_projector.linear_1.weight"],
            np.asarray(final["adapter/linear_1/kernel"]).T,
        )


def test_the_card_of_an_export_has_the_scores_of_adapters_on_quantised_kernels(
    lora_run: tuple[TinyRun, dict[str, Any]],
) -> None:
    """They were scored as they are kept, and are exported merged: the same model."""
    run, _ = lora_run
    card = (run.run_dir / "export" / "README.md").read_text()
    assert "No scores" not in card and "| Verdict accuracy | one-shot |" in card
