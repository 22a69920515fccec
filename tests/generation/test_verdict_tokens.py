"""The verdict token: its score, and answers that open as score and threshold say."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sage_jax.generation.verdict_tokens import opened_by_score, verdict_score
from sage_jax.verdict import JointScore

IDS = ((3, 7), (1, 4, 8))


def test_the_score_is_the_share_of_yes_among_yes_and_no() -> None:
    logits = np.random.default_rng(0).normal(0.0, 4.0, (3, 2, 11))
    weights = special.softmax(logits, axis=-1)
    yes, no = (weights[..., list(ids)].sum(axis=-1) for ids in IDS)
    np.testing.assert_allclose(verdict_score(jnp.asarray(logits, jnp.float32), IDS), yes / (yes + no), rtol=1e-5)


@pytest.mark.parametrize("shift", [None, [0.4, -2.5, 6.0, 0.0, 1.0]])
def test_a_joined_score_is_that_of_verdict_and_map_where_there_is_a_reference_and_shifted(
    shift: list[float] | None,
) -> None:
    rng = np.random.default_rng(2)
    logits, similarity = rng.normal(0.0, 4.0, (5, 2, 11)), rng.uniform(-0.2, 1.0, (5, 6))
    compared = np.array([True, False, True, True, False])
    joint, added = JointScore(verdict=0.7, map=3.5, offset=-1.25), np.array(shift or [0.0] * 5)
    yes, no = (special.logsumexp(logits[..., list(ids)], axis=-1) for ids in IDS)
    odds = yes - no
    joined = 0.7 * odds[:, 0] + 3.5 * (1.0 - similarity.min(axis=-1)) - 1.25
    expected = special.expit(np.stack([np.where(compared, joined, odds[:, 0]) + added, odds[:, 1]], axis=1))
    shifts = None if shift is None else jnp.asarray(shift, jnp.float32)
    given = (jnp.asarray(logits, jnp.float32), IDS, shifts)
    found = verdict_score(*given, joint, jnp.asarray(similarity, jnp.float32), jnp.asarray(compared))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert (np.abs(expected - special.expit(odds)).max(axis=0) > [0.1, -1.0]).all()
    alone = special.expit(odds + np.stack([added, np.zeros(5)], axis=1))
    np.testing.assert_allclose(verdict_score(*given), alone, rtol=2e-5)


def test_the_first_question_opens_as_the_threshold_says_and_others_as_they_were() -> None:
    logits = jnp.asarray(np.random.default_rng(1).normal(0.0, 4.0, (40, 3, 11)), jnp.float32)
    scores = np.asarray(verdict_score(logits, IDS))
    for threshold in (0.0, 0.2, float(scores[5, 0]), 0.9, 1.0):
        found = np.asarray(opened_by_score(logits, jnp.asarray(scores), IDS, threshold))
        np.testing.assert_array_equal(found[:, 1:], logits[:, 1:])
        for row in range(40):
            ids = IDS[0] if scores[row, 0] >= np.float32(threshold) else IDS[1]
            assert found[row, 0].argmax() == max(ids, key=lambda one: logits[row, 0, one])
            assert np.isfinite(found[row, 0]).sum() == len(ids)
