"""Scores of prompts: those that answers would open with, without an answer."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.generation.decoding import prefill_and_decode, unasked
from sage_jax.generation.options import Decoding
from sage_jax.generation.prompt_scores import first_scores, prompt_scores, prompts_of
from sage_jax.generation.verdict_tokens import verdict_score
from sage_jax.parameters import merge
from sage_jax.verdict import JointScore
from tests.support.tiny_sage import batch_of, on_device, random_params, random_tree, structure

RNG = np.random.default_rng(8)
BATCH = on_device(batch_of([random_tree(RNG, num_questions=2, num_answers=2) for _ in range(3)], RNG, num_questions=2))
DECODING = Decoding(max_new_tokens=3, end_id=2, verdict_ids=((10, 11), (12, 13)))


@pytest.mark.parametrize("joint", [None, JointScore(0.5, 6.0, -1.0)])
def test_scores_of_prompts_are_those_of_answers(joint: JointScore | None) -> None:
    graphdef, shapes = structure()
    model = merge(graphdef, random_params(shapes))
    decoding = dataclasses.replace(DECODING, joint_score=joint)
    answers, _ = jax.jit(lambda model: prefill_and_decode(model, BATCH, jnp.zeros(3, jnp.int32), decoding))(model)
    found = jax.jit(lambda model: prompt_scores(model, BATCH, decoding))(model)
    asked = ~np.asarray(unasked(BATCH))
    np.testing.assert_allclose(found.verdict_score[asked], answers.verdict_score[asked], rtol=2e-4)
    np.testing.assert_allclose(found.similarity, answers.similarity, atol=1e-5)


def test_prompts_have_no_answers() -> None:
    assert BATCH.target_ids.shape[2] > 0
    bare = prompts_of(BATCH)
    assert bare.target_ids.shape[2] == bare.target_mask.shape[2] == bare.claim_mask.shape[2] == 0


def test_without_a_reference_the_verdict_scores_alone() -> None:
    alone = dataclasses.replace(BATCH, reference_tile_mask=jnp.zeros_like(BATCH.reference_tile_mask))
    logits = jnp.asarray(RNG.normal(0, 2, (3, 2, 20)), jnp.float32)
    similarity = jnp.asarray(RNG.uniform(-1, 1, (3, 4)), jnp.float32)
    decoding = dataclasses.replace(DECODING, joint_score=JointScore(0.5, 6.0, -1.0))
    found = first_scores(logits, alone, similarity, decoding)
    np.testing.assert_allclose(found.verdict_score, verdict_score(logits, DECODING.verdict_ids), rtol=1e-5)
    joined = first_scores(logits, BATCH, similarity, decoding)
    assert np.abs(joined.verdict_score[:, 0] - found.verdict_score[:, 0]).max() > 0.01
