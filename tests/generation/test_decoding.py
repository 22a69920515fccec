"""The state that answers go on from: what each question sees, and the room that it takes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sage_jax.batch import TreeBatch
from sage_jax.generation.decoding import (
    DecodeState,
    encode_prefix,
    first_logits,
    prefill,
    prefill_and_decode,
    unasked,
)
from sage_jax.generation.options import Decoding
from sage_jax.generation.verdict_tokens import verdict_score
from sage_jax.models.attention.blocks import TreeBlocks
from sage_jax.models.attention.tree import TreeBranches
from sage_jax.models.sage import Sage
from sage_jax.parameters import merge
from sage_jax.verdict import JointScore
from tests.support.tiny_sage import TINY, VOCAB_SIZE, batch_of, on_device, random_params, random_tree, structure

YES, NO = (10, 11), (12, 13)


def prompts() -> TreeBatch:
    """Three images of one to three questions without answers, and a padding row."""
    rng = np.random.default_rng(3)
    trees = [random_tree(rng, num_questions=3, num_answers=1) for _ in range(3)]
    asked = [dataclasses.replace(tree, questions=[(ids, []) for ids, _ in tree.questions]) for tree in trees]
    return batch_of([*asked, None], rng, num_questions=3)


DECODING = Decoding(max_new_tokens=4, end_id=2, verdict_ids=(YES, NO))
BATCH = on_device(prompts())
ROOM = 12


@pytest.fixture(scope="module")
def model() -> Sage:
    graphdef, shapes = structure()
    return merge(graphdef, random_params(shapes))


@pytest.fixture(scope="module")
def prefilled(model: Sage) -> tuple[jax.Array, jax.Array, DecodeState]:
    return jax.jit(lambda model: prefill(model, BATCH, ROOM, DECODING))(model)


def test_a_question_sees_the_prefix_and_itself_and_no_answer(
    prefilled: tuple[jax.Array, jax.Array, DecodeState],
) -> None:
    visible = np.asarray(prefilled[2].visible)
    owner, answer = np.asarray(BATCH.question_index), np.asarray(BATCH.answer_index)
    real = np.asarray(BATCH.token_mask) & (answer == -1)
    length = visible.shape[-1] - ROOM
    for row in range(4):
        for question in range(3):
            sees = real[row] & np.isin(owner[row], (-1, question))
            np.testing.assert_array_equal(visible[row, question, :length], sees[:length])
    assert not visible[..., length:].any()


def test_positions_go_on_behind_the_question(prefilled: tuple[jax.Array, jax.Array, DecodeState]) -> None:
    positions = np.asarray(prefilled[2].position_ids)
    for row, question in np.argwhere(np.asarray(BATCH.question_ids) >= 0):
        own = (np.asarray(BATCH.question_index[row]) == question) & (np.asarray(BATCH.answer_index[row]) == -1)
        assert positions[row, question] == np.asarray(BATCH.position_ids[row])[own].max() + 1


def test_scores_are_read_from_the_prompts_logits(
    model: Sage, prefilled: tuple[jax.Array, jax.Array, DecodeState]
) -> None:
    seeds = jnp.zeros(4, jnp.int32)
    answers, state = jax.jit(lambda model: prefill_and_decode(model, BATCH, seeds, DECODING))(model)
    logits, similarity, _ = prefilled
    asked = ~np.asarray(unasked(BATCH))
    np.testing.assert_allclose(answers.verdict_score[asked], verdict_score(logits, (YES, NO))[asked], rtol=2e-5)
    np.testing.assert_allclose(answers.similarity, similarity, atol=1e-5)
    first = np.asarray(logits.argmax(axis=-1))
    np.testing.assert_array_equal(np.asarray(answers.token_ids)[..., 0][asked], first[asked])
    assert int(state.turns) == 1


def test_a_padding_row_and_a_missing_question_are_not_asked() -> None:
    expected = (np.asarray(BATCH.question_ids) < 0) | (np.asarray(BATCH.record_index) < 0)[:, None]
    assert expected[3].all() and not expected[:3].all()
    np.testing.assert_array_equal(unasked(BATCH), expected)


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_under_a_threshold_the_score_opens_the_first_answer(threshold: float) -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 3, (6, 2, VOCAB_SIZE)), jnp.float32)
    scores = verdict_score(logits, (YES, NO))
    opened = first_logits(logits, scores, dataclasses.replace(DECODING, verdict_threshold=threshold))
    for row in range(6):
        wanted = YES if float(scores[row, 0]) >= threshold else NO
        assert int(opened[row, 0].argmax()) in wanted
    np.testing.assert_array_equal(opened[:, 1], logits[:, 1])
    assert first_logits(logits, scores, DECODING) is logits


def test_a_joined_score_decides_how_answers_open(
    model: Sage, prefilled: tuple[jax.Array, jax.Array, DecodeState]
) -> None:
    logits, similarity, _ = prefilled
    compared = np.asarray(BATCH.reference_tile_mask).any(axis=1)
    plain = np.asarray(verdict_score(logits, (YES, NO)), np.float64)
    peak = 1.0 - np.asarray(similarity, np.float64).min(axis=1)
    wanted = np.where(compared, special.expit(0.5 * special.logit(plain[:, 0]) + 8.0 * peak - 2.0), plain[:, 0])
    decoding = dataclasses.replace(DECODING, verdict_threshold=0.5, joint_score=JointScore(0.5, 8.0, -2.0))
    seeds = jnp.zeros(4, jnp.int32)
    answers, _ = jax.jit(lambda model: prefill_and_decode(model, BATCH, seeds, decoding))(model)
    asked = ~np.asarray(unasked(BATCH))
    np.testing.assert_allclose(answers.verdict_score[asked[:, 0], 0], wanted[asked[:, 0]], rtol=1e-4)
    np.testing.assert_allclose(answers.verdict_score[:, 1:][asked[:, 1:]], plain[:, 1:][asked[:, 1:]], rtol=2e-5)
    for row in np.flatnonzero(asked[:, 0]):
        assert int(answers.token_ids[row, 0, 0]) in (YES if wanted[row] >= 0.5 else NO)
    assert compared.any() and (np.abs(wanted - plain[:, 0])[compared & asked[:, 0]] > 0.01).any()


def test_what_answers_begin_with_is_given_and_the_model_goes_on_from_it(model: Sage) -> None:
    seeds, decoding = jnp.zeros(4, jnp.int32), dataclasses.replace(DECODING, max_new_tokens=6)
    answer = jax.jit(lambda model, begun: prefill_and_decode(model, BATCH, seeds, decoding, begun)[0].token_ids)
    nothing = np.full((4, 3, 6), -1, np.int32)
    own = np.asarray(answer(model, nothing))
    np.testing.assert_array_equal(
        own, jax.jit(lambda model: prefill_and_decode(model, BATCH, seeds, decoding)[0].token_ids)(model)
    )
    begun = nothing.copy()
    begun[0, 1, :3] = 5, 9, 30
    found = np.asarray(answer(model, begun))
    assert found[0, 1, :3].tolist() == [5, 9, 30]
    others = np.ones((4, 3), bool)
    others[0, 1] = False
    np.testing.assert_array_equal(found[others], own[others])
    # Given all but the last word that it has said, it says that word: it has read what was given as its own.
    said = nothing.copy()
    said[..., :5] = found[..., :5]
    np.testing.assert_array_equal(answer(model, said), found)
    begun[0, 1, :3] = 40, 21, 17
    assert (np.asarray(answer(model, begun))[0, 1, 3:] != found[0, 1, 3:]).any()


def test_a_wider_state_keeps_what_it_holds(prefilled: tuple[jax.Array, jax.Array, DecodeState]) -> None:
    state = prefilled[2]
    slots = state.visible.shape[-1]
    wider = state.widened(slots + 5)
    np.testing.assert_array_equal(wider.visible[..., :slots], state.visible)
    assert not np.asarray(wider.visible[..., slots:]).any() and int(wider.length) == int(state.length)
    for old, new in zip(state.cache.keys, wider.cache.keys, strict=True):
        np.testing.assert_array_equal(new[..., :slots], old)
    assert TINY.decoder.num_layers == len(wider.cache.keys)


def test_a_prefix_is_read_by_the_models_attention(model: Sage) -> None:
    """On a GPU: no kernel's model falls back on the products of blocks."""
    real = jnp.arange(16) < jnp.asarray([[16], [9], [12], [1]])

    def cached() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        prefix = jax.jit(lambda model: encode_prefix(model, BATCH, 16))(model)
        cache = prefix.cache  # layers of B R X U and B R U X
        return np.stack(cache.keys), np.stack(cache.values), np.asarray(prefix.real)

    *expected, here = cached()
    for attention, kind in (("pallas", TreeBlocks), ("cudnn", TreeBranches)):
        model.attention = attention
        try:
            assert isinstance(model.prefix_visibility(real), kind)
            keys, values, _ = cached()
        finally:
            model.attention = "tree"
        for row, seen in enumerate(here):
            np.testing.assert_allclose(keys[:, row][..., seen], expected[0][:, row][..., seen], atol=1e-5)
            np.testing.assert_allclose(values[:, row][:, :, seen], expected[1][:, row][:, :, seen], atol=1e-5)
