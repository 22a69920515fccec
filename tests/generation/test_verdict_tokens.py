"""The verdict token: its score, and answers that open as score and threshold say."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import special

from sage_jax.generation.verdict_tokens import opened_by_score, verdict_score

IDS = ((3, 7), (1, 4, 8))


def test_the_score_is_the_share_of_yes_among_yes_and_no() -> None:
    logits = np.random.default_rng(0).normal(0.0, 4.0, (3, 2, 11))
    weights = special.softmax(logits, axis=-1)
    yes, no = (weights[..., list(ids)].sum(axis=-1) for ids in IDS)
    np.testing.assert_allclose(verdict_score(jnp.asarray(logits, jnp.float32), IDS), yes / (yes + no), rtol=1e-5)


def test_the_first_question_opens_as_the_threshold_says_and_others_as_they_were() -> None:
    logits = jnp.asarray(np.random.default_rng(1).normal(0.0, 4.0, (40, 3, 11)), jnp.float32)
    scores = np.asarray(verdict_score(logits, IDS))
    for threshold in (0.0, 0.2, float(scores[5, 0]), 0.9, 1.0):
        found = np.asarray(opened_by_score(logits, IDS, threshold))
        np.testing.assert_array_equal(found[:, 1:], logits[:, 1:])
        for row in range(40):
            ids = IDS[0] if scores[row, 0] >= np.float32(threshold) else IDS[1]
            assert found[row, 0].argmax() == max(ids, key=lambda one: logits[row, 0, one])
            assert np.isfinite(found[row, 0]).sum() == len(ids)
