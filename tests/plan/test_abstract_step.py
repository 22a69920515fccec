"""A step in shapes, against what training makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from sage_jax.config import Config, ConfigError, LoraConfig, MeshConfig
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import split
from sage_jax.plan.abstract_step import (
    abstract_step,
    accelerator_model,
    planned_mesh,
    start_shapes_of,
    state_shapes,
    stored_form,
    tree_size,
    vocab_rows,
)
from sage_jax.sharding import make_mesh
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import init_state
from tests.support.tiny_plan import CONFIG


def changed(stage: str, **fields: Any) -> Config:
    return dataclasses.replace(CONFIG, **{stage: dataclasses.replace(CONFIG.training(stage), **fields)})


def with_text(**fields: Any) -> Config:
    return dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, **fields))


@pytest.mark.parametrize("stage", ["sfe", "edpo"])
def test_the_state_has_the_shapes_that_training_begins_with(stage: str) -> None:
    shapes = start_shapes_of(CONFIG, stage)
    trainable, frozen = partition(shapes, CONFIG.training(stage).freeze)
    made = jax.eval_shape(
        lambda params: init_state(params, optimizer=make_optimizer(CONFIG.training(stage))), trainable
    )
    state, kept = state_shapes(CONFIG, stage)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), made
    )
    assert kept.keys() == frozen.keys() and not kept.keys() & state.trainable.keys()


def test_the_parameters_are_those_of_the_model_and_adapters_of_every_stage_before() -> None:
    model = nnx.eval_shape(lambda: Sage(CONFIG.model, vocab_rows(CONFIG), Placeholders(0, 1), nnx.Rngs(0)))
    plain = {path: leaf.shape for path, leaf in split(model)[1].items()}
    assert {path: leaf.shape for path, leaf in start_shapes_of(CONFIG, "sfe").items()} == plain
    lora = changed("sfe", lora=LoraConfig(rank=4))
    assert start_shapes_of(lora, "sfe").keys() > plain.keys()
    assert start_shapes_of(lora, "edpo").keys() == plain.keys()  # merged: stage 2 has none
    both = dataclasses.replace(lora, edpo=dataclasses.replace(lora.edpo, lora=LoraConfig(rank=4)))
    assert start_shapes_of(both, "edpo").keys() > plain.keys()


def test_a_tree_has_all_its_tiles_and_its_longest_answers() -> None:
    text, plan = CONFIG.text, CONFIG.plan
    image = CONFIG.model.tokens_per_tile
    for stage, questions, answers in (("sfe", 1, 1), ("edpo", plan.num_questions, plan.num_answers)):
        found = tree_size(CONFIG, stage)
        assert (found.num_questions, found.num_answers) == (questions, answers)
        each = plan.question_tokens + answers * text.max_answer_tokens
        assert found.num_tokens == image + text.max_facts + plan.prompt_tokens + questions * each
        assert found.shape.length == min(size for size in text.buckets if size >= found.num_tokens)
    assert tree_size(with_text(buckets=()), "edpo").shape.length >= tree_size(CONFIG, "edpo").num_tokens
    with pytest.raises(ConfigError, match=r"edpo: a tree of .* add a bucket of \d+ or more to text.buckets"):
        tree_size(with_text(buckets=(64,)), "edpo")


def test_arguments_are_laid_out_over_the_mesh_with_the_batch_of_all_devices() -> None:
    step, mesh = abstract_step(CONFIG, "sfe"), make_mesh(MeshConfig(1, 8, 1))
    state, frozen, batch = step.sharded(mesh)
    assert batch.token_ids.shape == (8, step.tree.shape.length)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves((state, frozen, batch))} == {mesh}
    assert batch.token_ids.sharding.shard_shape(batch.token_ids.shape)[0] == 1
    assert step.model.attention == "tree"


def test_an_accelerator_computes_in_bfloat16_unless_told() -> None:
    auto = dataclasses.replace(CONFIG.model, compute_dtype="auto")
    assert accelerator_model(auto).compute_dtype == "bfloat16"
    assert accelerator_model(CONFIG.model).compute_dtype == "float32"


def test_batches_carry_features_where_the_vit_stays_as_it_is() -> None:
    on_disk = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, vit_features="disk"))
    form = stored_form(on_disk, "sfe")
    assert form is not None and form.shape == (16, 256) and form.dtype == np.dtype("float32")
    assert stored_form(CONFIG, "sfe") is None
    trains_vit = dataclasses.replace(on_disk, sfe=dataclasses.replace(CONFIG.sfe, freeze=("fact_encoder/",)))
    assert stored_form(trains_vit, "sfe") is None


def test_the_planned_mesh_needs_no_devices() -> None:
    many = dataclasses.replace(CONFIG, plan=dataclasses.replace(CONFIG.plan, num_devices=4096))
    assert dict(planned_mesh(many).shape) == {"data": 1, "fsdp": 4096, "tensor": 1}
    odd = dataclasses.replace(many, mesh=MeshConfig(data=3, fsdp=5, tensor=1))
    with pytest.raises(ConfigError):
        planned_mesh(odd)
