"""A training stage's step in shapes alone: state, frozen parameters and batch, without weights, data or devices."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh

from sage_jax.batch import TreeBatch
from sage_jax.config import Config, ConfigError, LoraConfig, ModelConfig, TrainConfig, starts_from
from sage_jax.data.trees.encode import TileForm, feature_form, tiles_per_image
from sage_jax.data.trees.shapes import TreeShape, bucket_for, rounded, shape_of
from sage_jax.data.trees.tree import Capacity, empty_batch
from sage_jax.models.lora import fold, structure_of
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import split
from sage_jax.sharding import MESH_AXES, batch_sharding, mesh_sizes, param_shardings
from sage_jax.training.lora_params import start_shapes
from sage_jax.training.objectives import PreferenceObjective, SftObjective, stage_objective
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import TrainState, init_state, state_shardings

Shapes = dict[str, Any]
"""Parameters by path, each a `jax.ShapeDtypeStruct`."""


@dataclasses.dataclass(frozen=True)
class TreeSize:
    """Sizes of a stage's trees.

    Attributes:
      num_questions, num_answers: Slots of a batch (Q, N).
      num_tokens: Tokens of a tree with all of its tiles and its longest answers.
      shape: Length that it is padded to (S), and the room of its blocks.
    """

    num_questions: int
    num_answers: int
    num_tokens: int
    shape: TreeShape


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """What `jit_step` of a stage is made of and called with, in shapes.

    Attributes:
      train, model: The stage and the model, `compute_dtype` resolved to that of an accelerator. Its attention is one
        that any device computes: kernels could be compiled for no simulated device, and hide their products.
      tree: Sizes of its trees.
      graphdef, optimizer, objective: As in training.
      state, frozen, batch: Its arguments; the batch is that of all devices.
    """

    train: TrainConfig
    model: ModelConfig
    tree: TreeSize
    graphdef: nnx.GraphDef[Any]
    optimizer: optax.GradientTransformationExtraArgs
    objective: SftObjective | PreferenceObjective
    state: TrainState
    frozen: Shapes
    batch: TreeBatch

    def sharded(self, mesh: Mesh) -> tuple[TrainState, Shapes, TreeBatch]:
        """State, frozen parameters and batch with their shardings."""
        rows = jax.tree.map(lambda _: batch_sharding(mesh), self.batch)
        shardings = (state_shardings(self.state, mesh), param_shardings(self.frozen, mesh), rows)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            (self.state, self.frozen, self.batch),
            shardings,
        )


def planned_mesh(config: Config) -> AbstractMesh:
    """The mesh on devices that need not be there.

    Raises:
      ConfigError: Its axes do not multiply to `plan.num_devices`.
    """
    sizes = mesh_sizes(config.mesh, config.plan.num_devices)
    return AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def vocab_rows(config: Config) -> int:
    """Rows of the token embedding."""
    return config.plan.vocab_size or config.text.vocab_size


def tree_size(config: Config, stage: str) -> TreeSize:
    """The trees of a stage whose images have all their tiles and whose answers are as long as they may be.

    Raises:
      ConfigError: They fit into no bucket.
    """
    train, plan, text = config.training(stage), config.plan, config.text
    num_questions = min(train.questions_per_image or plan.num_questions, plan.num_questions)
    num_answers = plan.num_answers if train.answers == "ranked" else 1
    facts = text.max_facts * (text.max_fact_tokens if train.facts == "text" else 1)
    image = tiles_per_image(config.model) * config.model.tokens_per_tile
    question = plan.question_tokens + num_answers * text.max_answer_tokens
    tokens = image + facts + plan.prompt_tokens + num_questions * question
    prefix, answers = image + facts + plan.prompt_tokens, num_questions * num_answers * text.max_answer_tokens
    if not text.buckets:  # the longest shape that a stage chooses holds its longest tree
        needed = TreeShape(tokens, prefix, plan.question_tokens, text.max_answer_tokens, answers)
        return TreeSize(num_questions, num_answers, tokens, rounded(needed))
    bucket = bucket_for(tokens, text)
    if bucket is None:
        raise ConfigError(
            f"{stage}: a tree of {image} image tokens and {num_questions} questions of {num_answers} answers has "
            f"{tokens} tokens: add a bucket of {tokens} or more to text.buckets (now {text.buckets}), empty it, or "
            f"lower {stage}.questions_per_image"
        )
    shape = shape_of(
        bucket,
        longest_prefix=prefix,
        longest_question=plan.question_tokens,
        longest_answer=text.max_answer_tokens,
        answer_tokens=answers,
    )
    return TreeSize(num_questions, num_answers, tokens, shape)


def abstract_step(config: Config, stage: str) -> AbstractStep:
    """The step of a stage in shapes, as training makes it."""
    train, model = config.training(stage), accelerator_model(config.model)
    if model.attention != "masked":
        model = dataclasses.replace(model, attention="tree")
    params = start_shapes_of(config, stage)
    plain = nnx.eval_shape(lambda: _sage(model, vocab_rows(config)))
    graphdef = structure_of(plain, params, scale=train.lora.scale)
    state, frozen = state_shapes(config, stage)
    optimizer, tree = make_optimizer(train), tree_size(config, stage)
    capacity = Capacity(tree.num_questions, tree.num_answers, config.data.num_references)
    sizes = {"model": model, "text": config.text, "pad_id": 0}
    row = empty_batch(1, capacity, tree.shape, **sizes, tile_form=stored_form(config, stage))
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((train.batch_size, *np.shape(leaf)[1:]), leaf.dtype),
        row,
    )
    objective = stage_objective(stage, train)
    return AbstractStep(train, model, tree, graphdef, optimizer, objective, state, frozen, batch)


def stored_form(config: Config, stage: str) -> TileForm | None:
    """What a stage's batches carry of a tile where they carry ViT features; None where the step computes them."""
    if config.data.vit_features == "none":
        return None
    if any(path.startswith("vit/") for path in state_shapes(config, stage)[0].trainable):
        return None
    model = accelerator_model(config.model)
    return feature_form(model, jnp.dtype(model.compute_dtype))


def accelerator_model(model: ModelConfig) -> ModelConfig:
    """The model as a GPU or TPU computes it: `auto` is bfloat16."""
    dtype = "bfloat16" if model.compute_dtype == "auto" else model.compute_dtype
    return dataclasses.replace(model, compute_dtype=dtype)


def state_shapes(config: Config, stage: str) -> tuple[TrainState, Shapes]:
    """The training state and the frozen parameters of a stage."""
    train = config.training(stage)
    trainable, frozen = partition(start_shapes_of(config, stage), train.freeze)
    init = functools.partial(init_state, optimizer=make_optimizer(train))
    return jax.eval_shape(init, trainable), frozen


def start_shapes_of(config: Config, stage: str) -> Shapes:
    """Parameters that a stage starts from, with the adapters that it and the stages before it make."""
    loras, before = [config.training(stage).lora], starts_from(stage)
    while before is not None:
        loras.insert(0, config.training(before).lora)
        before = starts_from(before)
    # What makes no difference to shapes is left out, so that plans of other settings find them made.
    model = dataclasses.replace(config.model, remat="none", compute_dtype="float32", scan_unroll=1, attention="tree")
    return _start_shapes(model, vocab_rows(config), tuple(loras))


@functools.cache
def _start_shapes(model: ModelConfig, vocab_size: int, loras: tuple[LoraConfig, ...]) -> Shapes:
    if not loras:
        return split(nnx.eval_shape(lambda: _sage(model, vocab_size)))[1]
    *earlier, lora = loras
    found = _start_shapes(model, vocab_size, tuple(earlier))
    if earlier:
        found = jax.eval_shape(functools.partial(fold, scale=earlier[-1].scale), found)
    return start_shapes(found, lora)


def _sage(model: ModelConfig, vocab_size: int) -> Sage:
    return Sage(model, vocab_size, Placeholders(0, 1), nnx.Rngs(0))
