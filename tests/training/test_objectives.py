"""Objectives: summands that add up, and what they are made of."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.batch import TreeBatch
from sage_jax.config import PreferenceConfig
from sage_jax.losses.edpo import preference_terms
from sage_jax.losses.log_probs import answer_logps, token_logps
from sage_jax.losses.sft import similarity_loss
from sage_jax.parameters import Params, merge
from sage_jax.training.objectives import Metrics, PreferenceObjective, SftObjective
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import on_device, random_batch, random_params, structure

PREFERENCE = PreferenceConfig(beta=0.5, eta=0.3, sigmoid_weight=0.8, bco_weight=0.2, sft_weight=0.5)
CLAIM_WEIGHT = 6.0
OBJECTIVES = {
    "sft": SftObjective(similarity_weight=0.7, claim_weight=CLAIM_WEIGHT),
    "named": SftObjective(naming_weight=1.3, claim_weight=CLAIM_WEIGHT),
    "edpo": PreferenceObjective(PREFERENCE, claim_weight=CLAIM_WEIGHT),
}


@functools.partial(jax.jit, static_argnames="name", compiler_options=QUICK)
def loss_metrics_gradient(
    params: Params, batch: TreeBatch, normalizers: dict[str, jax.Array], name: str
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """The summand, its metrics, and the gradient of the last layers, which takes little to compile."""
    graphdef, _ = structure()

    def loss(trained: Params) -> tuple[jax.Array, Metrics]:
        return OBJECTIVES[name](merge(graphdef, {**params, **trained}), batch, normalizers)

    paths = ("decoder/output/kernel", "decoder/norm/scale")
    return jax.value_and_grad(loss, has_aux=True)({path: params[path] for path in paths})


@pytest.fixture(scope="module")
def params() -> Params:
    return random_params(structure()[1])


@pytest.fixture(scope="module")
def batch() -> TreeBatch:
    return on_device(random_batch(3, rows=7, padding_rows=1))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_add_up_to_the_whole_batch(name: str, params: Params, batch: TreeBatch) -> None:
    normalizers = OBJECTIVES[name].normalizers(batch)
    whole = loss_metrics_gradient(params, batch, normalizers, name)
    parts = [
        loss_metrics_gradient(params, jax.tree.map(lambda x, a=a: x[a::4], batch), normalizers, name) for a in range(4)
    ]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5), summed, whole
    )
    assert all(np.abs(leaf).max() > 1e-4 for leaf in whole[1].values())


@pytest.fixture(scope="module")
def answer_token_logps(params: Params, batch: TreeBatch) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each answer token, and the similarities, from the model directly."""
    graphdef, _ = structure()

    @jax.jit
    def compute(params: Params, batch: TreeBatch) -> tuple[jax.Array, jax.Array]:
        model = merge(graphdef, params)
        hidden, images = model(batch)
        states = hidden[jnp.arange(len(hidden))[:, None, None, None], batch.source_index]
        return token_logps(model.decoder.logits(states), batch.target_ids), images.compared.similarity

    logps, similarity = compute(params, batch)
    return np.asarray(logps), np.asarray(similarity)


def weighed(logps: np.ndarray, batch: TreeBatch, ranks: slice) -> float:
    """Mean next-token loss of the answers of some ranks, tokens of claims weighing `CLAIM_WEIGHT`."""
    mask, claims = (np.asarray(x)[:, :, ranks] for x in (batch.target_mask, batch.claim_mask))
    assert claims[mask].any() and not claims[mask].all()
    return float(np.average(-logps[:, :, ranks][mask], weights=np.where(claims[mask], CLAIM_WEIGHT, 1.0)))


def test_sft_is_the_mean_loss_of_answer_tokens_and_of_each_kind_of_image_token(
    params: Params, batch: TreeBatch, answer_token_logps: tuple[np.ndarray, np.ndarray]
) -> None:
    logps, similarity = answer_token_logps
    (loss, metrics), _ = loss_metrics_gradient(params, batch, OBJECTIVES["sft"].normalizers(batch), "sft")
    mask = np.asarray(batch.target_mask)
    next_token = -logps[mask].mean()
    compared = np.repeat(np.asarray(batch.reference_tile_mask).any(axis=1, keepdims=True), 8, axis=1)
    each, anomalous, good = (
        np.asarray(x) for x in similarity_loss(jnp.asarray(similarity), batch.token_labels, jnp.asarray(compared))
    )
    # The two good tokens of each row that deviate most count once more.
    hardest = [
        row[np.argsort(-row, kind="stable")[: min(2, keep.sum())]] for row, keep in zip(each * good, good, strict=True)
    ]
    expected = weighed(logps, batch, slice(None)) + 0.35 * (
        each[anomalous].mean() + each[good].mean() + np.concatenate(hardest).mean()
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["next_token_loss"][0] / metrics["next_token_loss"][1], next_token, rtol=1e-5)
    assert int(metrics["token_accuracy"][1]) == mask.sum()


def test_naming_adds_the_loss_of_what_image_tokens_say_under_the_output_layer(params: Params, batch: TreeBatch) -> None:
    plain = dataclasses.replace(OBJECTIVES["named"], naming_weight=0.0)
    normalizers = OBJECTIVES["named"].normalizers(batch)
    model = merge(structure()[0], params)
    without, _ = jax.jit(plain)(model, batch, normalizers)
    (found, metrics), gradient = loss_metrics_gradient(params, batch, normalizers, "named")
    image = model.embed_images(batch).image
    logits = np.asarray(model.decoder.logits(model.decoder.norm(image)), np.float64)
    logps = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = []
    for row, (names, labels) in enumerate(zip(np.asarray(batch.token_names), batch.token_labels, strict=True)):
        named = [token for token in range(len(names)) if (names[token] >= 0).any()]
        for token in sorted(named, key=lambda token: -float(labels[token]))[:8]:
            losses.append(-np.mean([logps[row, token, one] for one in names[token] if one >= 0]))
    np.testing.assert_allclose(found - without, 1.3 * np.mean(losses), rtol=1e-4)
    assert int(metrics["naming_loss"][1]) == len(losses) and float(jnp.abs(gradient["decoder/norm/scale"]).max()) > 0.0


def test_edpo_is_its_weighted_terms_over_the_questions_that_train_a_pair(
    params: Params, batch: TreeBatch, answer_token_logps: tuple[np.ndarray, np.ndarray]
) -> None:
    logps, _ = answer_token_logps
    (loss, metrics), _ = loss_metrics_gradient(params, batch, OBJECTIVES["edpo"].normalizers(batch), "edpo")
    policy = answer_logps(jnp.asarray(logps), batch.target_mask).reshape(-1, 3)
    groups = [policy, *(x.reshape(-1, 3) for x in (batch.reference_logps, batch.scores, batch.answer_mask))]
    terms = preference_terms(*groups, config=PREFERENCE)
    real = np.asarray(terms.group_mask)
    best = weighed(logps, batch, slice(1))
    pair, bco = (np.asarray(x)[real].mean() for x in (terms.pair_loss, terms.bco_loss))
    np.testing.assert_allclose(loss, 0.8 * pair + 0.2 * bco + 0.5 * best, rtol=1e-5)
    assert 0 < real.sum() < len(real)

    mask, values = np.asarray(groups[3]), np.asarray(policy)
    last = np.maximum(mask.sum(axis=1) - 1, 0)
    worst = values[np.arange(len(values)), last]
    scores = np.asarray(groups[2])
    adjacent = mask[:, 1:] & mask[:, :-1] & (scores[:, 1:] != scores[:, :-1])
    expected = {
        "ranking_best_worst": (values[:, 0] > worst)[real].mean(),
        "ranking_adjacent": (values[:, :-1] > values[:, 1:])[adjacent].mean(),
        "chosen_logps": values[real, 0].mean(),
        "rejected_logps": worst[real].mean(),
        "reward_margin": np.asarray(terms.margin)[real].mean(),
        "reward_accuracy": (np.asarray(terms.margin) > 0)[real].mean(),
        "extreme_gap": np.asarray(terms.pairs.extreme_gap)[real].mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name][0] / metrics[name][1], value, rtol=1e-4, err_msg=name)


def test_a_batch_without_anything_to_train_has_loss_and_gradient_zero(params: Params, batch: TreeBatch) -> None:
    empty = dataclasses.replace(
        batch,
        target_mask=jnp.zeros_like(batch.target_mask),
        answer_mask=jnp.zeros_like(batch.answer_mask),
        token_labels=jnp.full_like(batch.token_labels, -1.0),
        token_names=jnp.full_like(batch.token_names, -1),
    )
    for name, objective in OBJECTIVES.items():
        normalizers = objective.normalizers(empty)
        assert all(float(count) == 1.0 for count in normalizers.values())
        (loss, _), gradient = loss_metrics_gradient(params, empty, normalizers, name)
        assert float(loss) == 0.0
        for leaf in gradient.values():
            np.testing.assert_array_equal(leaf, 0.0)
