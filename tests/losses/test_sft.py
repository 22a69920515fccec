"""Next-token loss, and the dense losses of base models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch

from sage_jax.losses.log_probs import token_logps
from sage_jax.losses.sft import (
    hardest_tokens,
    most_anomalous_tokens,
    naming_loss,
    next_token_loss,
    similarity_loss,
)


def test_next_token_loss_and_gradient_are_those_of_torch_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 3.0, (2, 2, 3, 4, 11)).astype(np.float32)
    targets, mask = rng.integers(0, 11, (2, 2, 3, 4)), rng.random((2, 2, 3, 4)) < 0.6

    def loss(values: jax.Array) -> jax.Array:
        return jnp.sum(next_token_loss(token_logps(values, jnp.asarray(targets)), jnp.asarray(mask)))

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    peer = torch.tensor(logits, requires_grad=True)
    ignored = torch.tensor(np.where(mask, targets, -100)).reshape(-1)
    expected = torch.nn.functional.cross_entropy(peer.reshape(-1, 11), ignored, reduction="sum")
    expected.backward()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    assert peer.grad is not None
    np.testing.assert_allclose(gradient, peer.grad.numpy(), atol=1e-5)


def test_each_row_has_its_own_loss_and_a_row_without_tokens_none() -> None:
    rng = np.random.default_rng(1)
    logps, mask = -rng.random((3, 1, 2, 5)).astype(np.float32), rng.random((3, 1, 2, 5)) < 0.5
    mask[1] = False
    found = np.asarray(next_token_loss(jnp.asarray(logps), jnp.asarray(mask)))
    np.testing.assert_allclose(found, [-row[keep].sum() for row, keep in zip(logps, mask, strict=True)], rtol=1e-6)
    assert found[1] == 0.0


def test_similarity_loss_is_torch_binary_cross_entropy_at_labelled_tokens() -> None:
    rng = np.random.default_rng(2)
    similarity = rng.uniform(-1.0, 1.0, (4, 30)).astype(np.float32)
    labels = rng.choice([-1.0, 0.0, 0.05, 0.0999, 0.1, 0.7], (4, 30)).astype(np.float32)
    compared = np.broadcast_to(np.array([True, True, False, True])[:, None], labels.shape)
    loss, anomalous, good = similarity_loss(jnp.asarray(similarity), jnp.asarray(labels), jnp.asarray(compared))
    np.testing.assert_array_equal(anomalous, compared & (labels > 0.0))
    np.testing.assert_array_equal(good, compared & (labels == 0.0))
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(8.0 * (0.5 - similarity)), torch.tensor(np.clip(10.0 * labels, 0.0, 1.0)), reduction="none"
    ).numpy()
    np.testing.assert_allclose(loss, np.where(np.asarray(anomalous | good), each, 0.0), atol=1e-5)


def test_gradient_pulls_good_tokens_up_pushes_anomalous_ones_down_and_rests_in_between() -> None:
    similarity, labels = jnp.array([[0.5, 0.5, 0.5, 0.5]]), jnp.array([[0.0, 0.5, 0.05, -1.0]])
    gradient = jax.grad(lambda x: jnp.sum(similarity_loss(x, labels, jnp.ones((1, 4), bool))[0]))(similarity)
    assert gradient[0, 0] < 0.0 < gradient[0, 1]
    assert abs(gradient[0, 2]) < 1e-5 and gradient[0, 3] == 0.0  # half a whole: a similarity of a half is right


def test_hardest_tokens_are_the_least_similar_good_ones_of_each_row() -> None:
    rng = np.random.default_rng(4)
    similarity, good = rng.uniform(-1.0, 1.0, (6, 9)).astype(np.float32), rng.random((6, 9)) < 0.5
    good[0], good[1] = False, np.arange(9) == 4
    found = np.asarray(hardest_tokens(jnp.asarray(similarity), jnp.asarray(good), count=2))
    for row in range(6):
        order = sorted(np.flatnonzero(good[row]), key=lambda token, row=row: similarity[row, token])[:2]
        np.testing.assert_array_equal(np.flatnonzero(found[row]), sorted(order))


def test_naming_loss_is_the_mean_cross_entropy_of_a_names_tokens() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0.0, 3.0, (2, 3, 11)).astype(np.float32)
    names = np.array([[[4, 7, 2], [1, -1, -1], [-1, -1, -1]], [[0, 10, -1], [3, -1, -1], [9, 9, -1]]])
    loss, right = naming_loss(jnp.asarray(logits), jnp.asarray(names))
    wide = logits.astype(np.float64)
    logps = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    for row in range(2):
        for token in range(3):
            name = [one for one in names[row, token] if one >= 0]
            expected = -np.mean(logps[row, token, name]) if name else 0.0
            np.testing.assert_allclose(loss[row, token], expected, rtol=1e-5)
            assert bool(right[row, token]) == (logits[row, token].argmax() in name)


def test_tokens_with_the_most_of_a_named_defect_come_first() -> None:
    labels = jnp.array([[0.2, 0.9, 0.0, 0.5, 0.5], [-1.0, -1.0, 0.0, 0.0, 0.0]])
    names = jnp.array([[[3], [-1], [-1], [3], [4]], [[-1], [8], [-1], [-1], [-1]]])
    most = most_anomalous_tokens(labels, names, count=3)
    assert most[0].tolist() == [3, 4, 0]
    assert int(most[1, 0]) == 1  # named by a box alone
    assert most_anomalous_tokens(labels, names, count=9).shape == (2, 5)
