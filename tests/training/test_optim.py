"""Schedule, optimizer and freeze table, against closed forms in numpy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sage_jax.config import ConfigError, TrainConfig
from sage_jax.parameters import Params
from sage_jax.training.optim import decays, freeze_table, make_optimizer, make_schedule, orthogonalised, partition

TRAIN = TrainConfig(steps=50, warmup_steps=7, peak_learning_rate=3e-3, end_ratio=0.2)
SHAPES = {
    "vit/patch_embed/kernel": (12, 8),
    "vit/blocks/norm_1/scale": (3, 8),
    "vit/blocks/layer_scale_1": (3, 8),
    "decoder/embedding/embedding": (11, 8),
    "decoder/blocks/mlp/up/kernel": (3, 8, 16),
    "decoder/blocks/mlp/up/bias": (3, 16),
}
DECAYING = {"vit/patch_embed/kernel", "decoder/embedding/embedding", "decoder/blocks/mlp/up/kernel"}


def random_params(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()}


def test_warm_up_rises_evenly_to_the_peak_from_the_first_update():
    schedule = make_schedule(TRAIN)
    rates = [float(schedule(update)) for update in range(TRAIN.warmup_steps)]
    np.testing.assert_allclose(rates, 3e-3 * np.arange(1, 8) / 7, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_its_end_and_stays():
    schedule = make_schedule(TRAIN)
    for update in range(7, 50):
        expected = 3e-3 * (0.2 + 0.8 * (1 + math.cos(math.pi * (update - 7) / 43)) / 2)
        assert float(schedule(update)) == pytest.approx(expected, rel=1e-5)
    assert float(schedule(50)) == float(schedule(1000)) == pytest.approx(6e-4, rel=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 7, 50])
def test_constant_stays_at_the_peak(warmup_steps: int):
    schedule = make_schedule(dataclasses.replace(TRAIN, schedule="constant", warmup_steps=warmup_steps))
    assert [float(schedule(update)) for update in (warmup_steps, 49, 99)] == [pytest.approx(3e-3)] * 3


def test_warm_up_over_all_steps_is_finite():
    schedule = make_schedule(dataclasses.replace(TRAIN, warmup_steps=50))
    assert float(schedule(49)) == pytest.approx(3e-3)
    assert float(schedule(51)) == pytest.approx(6e-4)


def test_updates_are_clipped_adamw_that_decays_matrices_alone():
    train = dataclasses.replace(TRAIN, weight_decay=0.3, clip_norm=0.5)
    optimizer, schedule = make_optimizer(train), make_schedule(train)
    params = random_params(0)
    state = optimizer.init(params)
    expected = {path: np.asarray(leaf, np.float64) for path, leaf in params.items()}
    first = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    second = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    for update, size in enumerate((1.0, 1e-3, 1.0)):  # the middle gradient is below the clip norm
        gradient = {path: leaf * size for path, leaf in random_params(update + 1).items()}
        norm = math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in gradient.values()))
        assert (norm > 0.5) == (size == 1.0)
        changes, state = optimizer.update(gradient, state, params)
        params = cast(Params, optax.apply_updates(params, changes))
        for path, leaf in gradient.items():
            clipped = np.asarray(leaf, np.float64) * min(1.0, 0.5 / norm)
            first[path] = train.b1 * first[path] + (1 - train.b1) * clipped
            second[path] = train.b2 * second[path] + (1 - train.b2) * clipped**2
            step = first[path] / (1 - train.b1 ** (update + 1))
            step = step / (np.sqrt(second[path] / (1 - train.b2 ** (update + 1))) + 1e-8)
            step = step + (0.3 * expected[path] if path in DECAYING else 0.0)
            expected[path] = expected[path] - float(schedule(update)) * step
    for path in SHAPES:
        np.testing.assert_allclose(params[path], expected[path], rtol=2e-5, atol=2e-6, err_msg=path)


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Five Newton-Schulz iterations with the coefficients of Muon's authors, in float64; wide or square."""
    found = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = found @ found.T
        found = 3.4445 * found + (-4.775 * square + 2.0315 * square @ square) @ found
    return found


def test_muon_turns_matrices_of_layers_by_themselves_and_leaves_the_rest_to_adamw():
    train = dataclasses.replace(TRAIN, weight_decay=0.3, optimizer="muon", clip_norm=1e9)
    optimizer, schedule = make_optimizer(train), make_schedule(train)
    rng = np.random.default_rng(5)
    shapes = {
        "decoder/blocks/mlp/up/kernel": (2, 8, 24),
        "decoder/blocks/mlp/down/kernel": (2, 24, 8),
        "adapter/linear_1/kernel": (8, 8),
        "decoder/output/kernel": (8, 24),
        "vit/stem/out/kernel": (8, 8),
        "vit/stem/convolutions/0/kernel": (3, 3, 4, 8),
        "decoder/blocks/mlp/up/lora_a": (2, 8, 4),
        "decoder/embedding/embedding": (24, 8),
        "decoder/blocks/mlp_norm/scale": (2, 8),
    }
    layers = set(list(shapes)[:3])

    def drawn() -> Params:
        return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}

    params, gradients = drawn(), [drawn() for _ in range(3)]
    plain = make_optimizer(dataclasses.replace(train, optimizer="adamw"))
    by_adamw, state, adamw_state = dict(params), optimizer.init(params), plain.init(params)
    expected = {path: np.asarray(params[path], np.float64) for path in layers}
    momentum = {path: np.zeros(shapes[path]) for path in layers}
    for number, gradient in enumerate(gradients):
        changes, state = optimizer.update(gradient, state, params)
        params = cast(Params, optax.apply_updates(params, changes))
        changes, adamw_state = plain.update(gradient, adamw_state, by_adamw)
        by_adamw = cast(Params, optax.apply_updates(by_adamw, changes))
        for path in layers:
            given = np.asarray(gradient[path], np.float64)
            momentum[path] = 0.95 * momentum[path] + 0.05 * given
            # Nesterov's step, each part corrected for a momentum that began at zero, as optax has it.
            ahead = 0.95 * momentum[path] / (1 - 0.95 ** (number + 2)) + 0.05 * given / (1 - 0.95 ** (number + 1))
            for layer, old in zip(ahead.reshape(-1, *ahead.shape[-2:]), _layers(expected[path]), strict=True):
                wide = layer.T if layer.shape[0] > layer.shape[1] else layer
                turned = orthogonal(wide).T if wide is not layer else orthogonal(wide)
                step = 0.2 * max(layer.shape) ** 0.5 * turned + 0.3 * old
                old -= float(schedule(number)) * step
    for path in shapes:
        np.testing.assert_allclose(params[path], (expected if path in layers else by_adamw)[path], atol=2e-5)


def _layers(matrices: np.ndarray) -> np.ndarray:
    """A view of matrices as one stack of them."""
    return matrices.reshape(-1, *matrices.shape[-2:])


def test_muons_state_stays_where_a_step_is_not_finite_and_moments_lie_as_their_parameters():
    train = dataclasses.replace(TRAIN, optimizer="muon")
    optimizer, params = make_optimizer(train), random_params(0)
    _, before = optimizer.update(random_params(1), optimizer.init(params), params)
    _, moved = optimizer.update(random_params(2), before, params, finite=jnp.asarray(True))
    poisoned = {path: leaf * np.nan for path, leaf in random_params(2).items()}
    _, held = optimizer.update(poisoned, before, params, finite=jnp.asarray(False))
    changed = 0
    for old, stayed, new in zip(*map(jax.tree.leaves, (before, held, moved)), strict=True):
        np.testing.assert_array_equal(old, stayed)
        changed += not np.array_equal(old, new)
    kernels = [path for path, shape in SHAPES.items() if orthogonalised(path, len(shape))]
    assert kernels and changed >= 2 * len(SHAPES) - len(kernels)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    optimizer, params = make_optimizer(TRAIN), random_params(0)
    _, before = optimizer.update(random_params(1), optimizer.init(params), params)
    _, moved = optimizer.update(random_params(2), before, params, finite=jnp.asarray(True))
    poisoned = {path: leaf * np.nan for path, leaf in random_params(2).items()}
    _, held = optimizer.update(poisoned, before, params, finite=jnp.asarray(False))
    assert len(jax.tree.leaves(held)) == 2 * len(SHAPES) + 2  # moments, and the counts of Adam and of the schedule
    for old, stayed, new in zip(*map(jax.tree.leaves, (before, held, moved)), strict=True):
        np.testing.assert_array_equal(old, stayed)
        assert not np.array_equal(old, new)


def test_states_are_those_of_optax():
    train, params = TRAIN, random_params(0)
    of_optax = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(make_schedule(train), mask=decays))
    assert jax.tree.structure(make_optimizer(train).init(params)) == jax.tree.structure(of_optax.init(params))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere one kernel reads all and writes all")
def test_a_donated_state_is_updated_where_it_lies():
    optimizer = make_optimizer(TRAIN)
    params = {"decoder/output/kernel": jnp.ones((256, 512)), "decoder/embedding/embedding": jnp.ones((512, 256))}

    def step(params: Params, state: optax.OptState, gradients: Params, finite: jax.Array) -> tuple[Any, optax.OptState]:
        updates, state = optimizer.update(gradients, state, params, finite=finite)
        moved = optax.apply_updates(params, updates)
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, params), state

    given = params, optimizer.init(params), params, jnp.asarray(True)
    memory = jax.jit(step, donate_argnums=(0, 1)).lower(*given).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 0.1 * sum(leaf.nbytes for leaf in params.values())


def test_every_parameter_is_on_one_side_and_patterns_match_from_the_start():
    params = random_params(0)
    trainable, frozen = partition(params, ("vit/", "decoder/.*/bias"))
    assert set(frozen) == {path for path in SHAPES if path.startswith("vit/")} | {"decoder/blocks/mlp/up/bias"}
    assert set(trainable) | set(frozen) == set(SHAPES) and not set(trainable) & set(frozen)
    assert partition(params, ("decoder/embedding",))[1].keys() == {"decoder/embedding/embedding"}
    with pytest.raises(ConfigError, match="'mlp/' matches no parameter"):
        partition(params, ("mlp/",))


def test_nothing_frozen_trains_everything():
    params = random_params(0)
    assert partition(params, ()) == (params, {})


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("vti/",), "'vti/' matches no parameter; the nearest are 'vit/'"),
        (("vit/", "decoder/blocks/mpl/"), "the nearest are 'decoder/blocks/mlp/'"),
        (("zzz",), "there are 'decoder/', 'vit/'"),
        (("vit/", "decoder/"), "freezes all 6 parameters"),
        (("vit/(",), r"'vit/\(' is no regular expression"),
    ],
)
def test_a_freeze_pattern_that_cannot_be_meant_is_refused(freeze: tuple[str, ...], message: str):
    with pytest.raises(ConfigError, match=message):
        partition(random_params(0), freeze)


def test_freeze_table_counts_every_scalar_once():
    params = random_params(0)
    lines = freeze_table(*partition(params, ("vit/patch_embed/",))).splitlines()
    assert [line.split() for line in lines] == [
        ["parameters", "trained", "frozen"],
        ["decoder", "520", "0"],
        ["vit", "48", "96"],
        ["all", "568", "96"],
    ]
    assert 568 + 96 == sum(leaf.size for leaf in jax.tree.leaves(params))
