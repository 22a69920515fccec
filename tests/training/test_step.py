"""The compiled step: its sums over micro-batches, its skips, and one compilation for each shape of batches."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bench.sizes import SIZES, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import TrainConfig
from sage_jax.parameters import Params, merge, split
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import CompiledStep, Metrics, init_state, train_step
from tests.support.tiny_training import TRAIN, ScorePredictor, SquaredError, assert_same, make_batch


def test_a_shape_compiles_once_and_is_told() -> None:
    told: list[str] = []
    start, frozen = (cast(Any, np.int32(value)) for value in (1, 2))  # any state will do
    jitted = jax.jit(lambda state, frozen, batch: (state + frozen + batch.token_ids.sum(), {}))
    step = CompiledStep(jitted, told.append)
    longer = make_tree(SIZES["tiny"], rows=2, questions=1, num_answers=2, seed=0, round_to=512)
    batches = [make_tree(SIZES["tiny"], rows=2, questions=1, num_answers=2, seed=seed, round_to=256) for seed in (1, 2)]
    for batch in (*batches, longer, *batches):
        state, _ = step(start, frozen, batch)
        assert state == 3 + batch.token_ids.sum()
    assert len(step.seconds) == len(told) == 2
    assert "2 rows of 256 tokens without references" in told[0] and told[1].endswith("(shape 2)")


def test_the_memory_of_a_step_is_that_of_arguments_and_temporaries() -> None:
    told: list[str] = []
    given: list[Any] = [np.ones((512, 512), np.float32) for _ in range(2)]
    batch = make_tree(SIZES["tiny"], rows=1, questions=1, num_answers=1, seed=0)

    def step(state: jax.Array, frozen: jax.Array, batch: TreeBatch) -> tuple[jax.Array, Metrics]:
        return jnp.tanh(state @ frozen) @ frozen, {}

    kept, donated = CompiledStep(jax.jit(step), told.append), CompiledStep(jax.jit(step, donate_argnums=0))
    for one in (kept, donated):
        state, frozen = (jnp.asarray(each) for each in given)
        one(cast(Any, state), cast(Any, frozen), batch)
    matrix = given[0].nbytes
    (whole,), (less,) = kept.peak_bytes, donated.peak_bytes
    assert whole - less == matrix  # the result takes the place of the state that is given away
    assert 3 * matrix <= less < 5 * matrix
    assert f"s, {whole / 1e9:.2f} GB (shape 1)" in told[0]


def one_step(train: TrainConfig, batch: TreeBatch, accumulate: int = 1, steps: int = 1) -> tuple[Any, Metrics]:
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    trainable, frozen = partition(params, train.freeze)
    optimizer = make_optimizer(train)
    state, metrics = init_state(trainable, optimizer=optimizer), {}
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=optimizer, objective=SquaredError(), accumulate=accumulate
    )
    for _ in range(steps):
        state, metrics = jax.jit(step)(state, frozen, batch)
    return state, metrics


def test_micro_batches_add_up_to_the_whole_batch():
    batch = make_batch(np.random.default_rng(1), 0, 16)
    whole, whole_metrics = one_step(TRAIN, batch, accumulate=1)
    for accumulate in (2, 16):
        cut, metrics = one_step(TRAIN, batch, accumulate=accumulate)
        for path in whole.trainable:
            np.testing.assert_allclose(cut.trainable[path], whole.trainable[path], atol=2e-6, err_msg=path)
        for name, (total, count) in whole_metrics.items():
            np.testing.assert_allclose(metrics[name][0], total, rtol=1e-5, err_msg=name)
            assert float(metrics[name][1]) == float(count)


def test_micro_batches_of_a_batch_that_shows_no_reference_add_up_too():
    batch = make_batch(np.random.default_rng(1), 0, 16)
    no_tiles = {"reference_tiles": np.zeros((16, 0, 4, 4, 3), np.uint8), "reference_tile_mask": np.zeros((16, 0), bool)}
    bare = dataclasses.replace(batch, **no_tiles)
    whole, cut = one_step(TRAIN, batch, accumulate=1)[0], one_step(TRAIN, bare, accumulate=4)[0]
    for path in whole.trainable:
        np.testing.assert_allclose(cut.trainable[path], whole.trainable[path], atol=2e-6, err_msg=path)


def test_gradient_norm_and_loss_are_those_of_the_formula():
    batch = make_batch(np.random.default_rng(2), 0, 16)
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))

    def loss_of(trainable: Params) -> jax.Array:
        model = merge(graphdef, params | trainable)
        return jnp.mean(jnp.square(model(batch)[:, None] - batch.scores), where=batch.answer_mask)

    trainable, _ = partition(params, TRAIN.freeze)
    loss, gradient = jax.value_and_grad(loss_of)(trainable)
    _, metrics = one_step(TRAIN, batch, accumulate=4)
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"][0], optax.tree.norm(gradient), rtol=1e-5)


def test_a_step_that_is_not_finite_moves_only_step_and_counters():
    batch = make_batch(np.random.default_rng(3), 0, 16)
    before, _ = one_step(TRAIN, batch, steps=2)
    batch = make_batch(np.random.default_rng(4), 0, 16)
    batch.scores[5, 0, 1], batch.answer_mask[5, 0, 1] = np.inf, True
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    _, frozen = partition(params, TRAIN.freeze)
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=make_optimizer(TRAIN), objective=SquaredError(), accumulate=2
    )
    after, metrics = jax.jit(step)(before, frozen, batch)
    assert_same(after.trainable, before.trainable)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (int(after.step), int(after.num_skipped), int(after.num_skipped_in_row)) == (3, 1, 1)
    assert float(metrics["skipped"][0]) == 1.0


def test_a_donated_first_state_leaves_the_parameters_it_was_made_of():
    batch = make_batch(np.random.default_rng(5), 0, 16)
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    trainable, frozen = partition(params, TRAIN.freeze)
    optimizer = make_optimizer(TRAIN)
    step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, objective=SquaredError(), accumulate=1)
    jax.jit(step, donate_argnums=0)(init_state(trainable, optimizer=optimizer), frozen, batch)
    assert_same(params, split(ScorePredictor(nnx.Rngs(0)))[1])


class NothingToLearn(SquaredError):
    """A batch without a pair: its loss is 0 whatever the parameters are."""

    def __call__(self, model: Any, batch: TreeBatch, normalizers: Any) -> Any:
        loss, metrics = super().__call__(model, batch, normalizers)
        return 0.0 * loss, metrics


@pytest.mark.parametrize("accumulate", (1, 2))
def test_a_gradient_of_zero_moves_only_step_and_counters(accumulate: int) -> None:
    """Weight decay and momentum alone would move the parameters."""
    batch = make_batch(np.random.default_rng(3), 0, 16)
    before, _ = one_step(TRAIN, batch, steps=2)
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    _, frozen = partition(params, TRAIN.freeze)
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        optimizer=make_optimizer(TRAIN),
        objective=NothingToLearn(),
        accumulate=accumulate,
    )
    after, metrics = jax.jit(step)(before, frozen, batch)
    assert_same(after.trainable, before.trainable)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (int(after.step), int(after.num_skipped), int(after.num_skipped_in_row)) == (3, 1, 0)
    assert (float(metrics["skipped"][0]), float(metrics["empty"][0])) == (0.0, 1.0)
