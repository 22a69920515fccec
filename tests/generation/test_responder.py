"""Cached decoding of all questions at once against recomputing every question's row at every token."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.batch import Answers, TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.data.trees.encode import TreeError
from sage_jax.generation.decoding import ImagePrefix
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.generation.sampling import Sampling, draw_keys
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.models.lora import structure_of
from sage_jax.models.sage import Sage
from sage_jax.parameters import merge
from sage_jax.sharding import make_mesh
from sage_jax.training.lora_params import narrow
from tests.generation.test_sampling import peer
from tests.support.tiny_sage import (
    PLACEHOLDERS,
    TINY,
    VOCAB_SIZE,
    batch_of,
    on_device,
    random_batch,
    random_params,
    random_tree,
    structure,
)

NEW, WIDTH = 6, 48
YES, NO = (10, 11), (12, 13)
GREEDY = Sampling()
MESH = MeshConfig(data=4, fsdp=1, tensor=2)


def make_responder(end_id: int, mesh: MeshConfig | Mesh = MESH, max_positions: int = 0, **options: Any) -> Responder:
    graphdef, shapes = structure()
    decoding = Decoding(max_new_tokens=NEW, end_id=end_id, verdict_ids=(YES, NO), **options)
    devices = make_mesh(mesh) if isinstance(mesh, MeshConfig) else mesh
    return Responder(graphdef, random_params(shapes), devices, decoding, max_positions)


@pytest.fixture(scope="module")
def prompts() -> TreeBatch:
    """Questions without answers: three images of one to three questions, and a padding row."""
    rng = np.random.default_rng(2)
    trees = [random_tree(rng, num_questions=3, num_answers=1) for _ in range(3)]
    rows = [
        type(tree)(1 + row % 2, row % 3, row != 1, tree.words, [(question, []) for question, _ in tree.questions])
        for row, tree in enumerate(trees)
    ]
    assert len({len(tree.questions) for tree in trees}) > 1
    return batch_of([*rows, None], rng, num_questions=3)


@jax.jit
def next_logits(
    sage: Sage, batch: TreeBatch, rows: jax.Array, ids: jax.Array, last: jax.Array, asked: jax.Array
) -> jax.Array:
    """Next-token logits of plain causal rows, each with the images of one row of the batch."""
    images = jax.tree.map(lambda leaf: leaf[rows], sage.embed_images(batch))
    positions = jnp.broadcast_to(jnp.arange(WIDTH), ids.shape)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((WIDTH, WIDTH), bool)), (len(ids), WIDTH, WIDTH))
    said = (positions >= asked[:, None])[..., None]  # where the model says a placeholder's name, it is a word
    embeddings = jnp.where(said, sage.decoder.embedding(ids), sage.embed_tokens(ids, images))
    hidden, _ = sage.decoder(embeddings, positions, mask)
    return sage.decoder.logits(hidden[jnp.arange(len(ids)), last])


def naive(
    batch: TreeBatch, how: Sampling = GREEDY, further: list[list[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Chosen ids (R, NEW) and first-token probabilities (R, V) of every question, row by row without a cache.

    Logits go through transformers' processors, with the ids of the question's own row. `further` is what was said after
    each question, in a second turn.
    """
    graphdef, shapes = structure()
    sage = merge(graphdef, random_params(shapes))
    places = list(zip(*np.nonzero(batch.question_ids >= 0), strict=True))
    ids, sizes = np.zeros((len(places), WIDTH), np.int32), np.zeros(len(places), int)
    for at, (row, question) in enumerate(places):
        seen = batch.token_mask[row] & np.isin(batch.question_index[row], (-1, question))
        sizes[at] = seen.sum()
        ids[at, : sizes[at]] = batch.token_ids[row][seen]
    asked = jnp.asarray(sizes.copy())
    for at, said in enumerate(further or []):
        ids[at, sizes[at] : sizes[at] + len(said)] = said
        sizes[at] += len(said)
    rows = jnp.asarray([row for row, _ in places])

    written, first = np.zeros((len(places), NEW), np.int32), np.zeros((len(places), VOCAB_SIZE))
    keys = draw_keys(how.seed, jnp.arange(len(batch.token_ids)) + 40, 3, jnp.array(int(further is not None)))
    for step in range(NEW):
        logits = np.asarray(
            next_logits(sage, on_device(batch), rows, jnp.asarray(ids), jnp.asarray(sizes + step - 1), asked)
        )
        if step == 0:
            first = np.exp(logits.astype(np.float64))
        for at, place in enumerate(places):
            own = torch.tensor(ids[at, : sizes[at] + step][None], dtype=torch.long)
            scores = peer(how)(own, torch.tensor(logits[at][None])).numpy()[0]
            drawn = jax.random.categorical(jax.random.fold_in(keys[place], step), jnp.asarray(scores))
            written[at, step] = scores.argmax() if how.is_greedy else drawn
        ids[np.arange(len(places)), sizes + step] = written[:, step]
    return written, first


@pytest.fixture(scope="module")
def expected(prompts: TreeBatch) -> tuple[np.ndarray, np.ndarray]:
    return naive(prompts)


def up_to(ids: np.ndarray, end_id: int) -> list[int]:
    """Ids with the closing one, and nothing after it."""
    found = ids.tolist()
    return found[: found.index(end_id) + 1] if end_id in found else found


@pytest.fixture(scope="module")
def answered(prompts: TreeBatch, expected: tuple[np.ndarray, np.ndarray]) -> tuple[int, Answers]:
    end_id = int(expected[0][0, 2])  # so that some answers close early
    return end_id, make_responder(end_id).answer(prompts)


def test_cached_answers_equal_recomputed_ones(
    prompts: TreeBatch, expected: tuple[np.ndarray, np.ndarray], answered: tuple[int, Answers]
) -> None:
    end_id, answers = answered
    lengths = set()
    for at, place in enumerate(zip(*np.nonzero(prompts.question_ids >= 0), strict=True)):
        wanted = up_to(expected[0][at], end_id)
        assert up_to(np.asarray(answers.token_ids[place]), end_id) == wanted
        lengths.add(len(wanted))
    assert len(lengths) > 1 and max(lengths) == NEW
    none = prompts.question_ids < 0
    assert none[:3].any() and (answers.token_ids[none] == end_id).all()  # what nobody asked is not waited for


@pytest.mark.parametrize(
    "how",
    [Sampling(repetition_penalty=1.8), Sampling(0.8, top_k=9, top_p=0.9, repetition_penalty=1.3, seed=5)],
    ids=["greedy", "drawn"],
)
def test_questions_of_an_image_are_chosen_for_each_as_alone(prompts: TreeBatch, how: Sampling) -> None:
    """The penalty sees the prompt, the question and its own answer, and no other question of the image."""
    found = make_responder(-1, sampling=how).answer(prompts, np.arange(4) + 40)
    written, _ = naive(prompts, how)
    places = list(zip(*np.nonzero(prompts.question_ids >= 0), strict=True))
    for at, place in enumerate(places):
        assert found.token_ids[place].tolist() == written[at].tolist()
    plain, _ = naive(prompts, dataclasses.replace(how, repetition_penalty=1.0))
    assert (written != plain).any()


def test_every_question_goes_on_as_alone(prompts: TreeBatch, answered: tuple[int, Answers]) -> None:
    """A second turn of all questions of an image at once: each sees its own conversation and no other."""
    end_id, how = answered[0], Sampling(1.2, repetition_penalty=1.3, seed=2)
    responder, seeds = make_responder(end_id, sampling=how), np.arange(4) + 40
    first, state = responder.first_turn(prompts, seeds)
    rng, further = np.random.default_rng(1), []
    ids, mask = np.zeros((4, 3, 8), np.int32), np.zeros((4, 3, 8), bool)
    for place in zip(*np.nonzero(prompts.question_ids >= 0), strict=True):
        said = first.token_ids[place].tolist()
        said = said[: said.index(end_id)] if end_id in said else said
        asked = rng.integers(8, VOCAB_SIZE, int(rng.integers(2, 8))).tolist()
        spoken = [*(said[-1:] if len(said) == NEW else []), *asked]  # the last token of a cut answer was not read yet
        ids[place][: len(spoken)], mask[place][: len(spoken)] = spoken, True
        further.append([*said, *asked])
    assert len({len(each) for each in further}) > 2
    slots = state.visible.shape[-1]
    with pytest.raises(ValueError, match=f"{slots} slots for"):
        responder.next_turn(state, ids, mask, slots=slots, seeds=seeds)
    found, _ = responder.next_turn(state, ids, mask, slots=slots + 60, seeds=seeds)
    expected, _ = naive(prompts, how, further)
    for at, place in enumerate(zip(*np.nonzero(prompts.question_ids >= 0), strict=True)):
        assert up_to(found[place], end_id) == up_to(expected[at], end_id)


def test_any_stop_token_closes_an_answer(
    prompts: TreeBatch, expected: tuple[np.ndarray, np.ndarray], answered: tuple[int, Answers]
) -> None:
    end_id, answers = answered
    places = list(zip(*np.nonzero(prompts.question_ids >= 0), strict=True))
    further = int(expected[0][-1, 1])
    assert further != end_id
    found = make_responder(end_id, stop_ids=(further,)).answer(prompts)
    closed = []
    for place in places:
        whole = answers.token_ids[place].tolist()
        stops = [at for at, token in enumerate(whole) if token in (end_id, further)]
        wanted = whole[: stops[0] + 1] if stops else whole
        assert found.token_ids[place].tolist()[: len(wanted)] == wanted
        assert set(found.token_ids[place].tolist()[len(wanted) :]) <= {end_id}
        closed += wanted[-1:]
    assert {end_id, further} <= set(closed)


def test_scores_alone_are_those_of_answers(prompts: TreeBatch, answered: tuple[int, Answers]) -> None:
    found = make_responder(answered[0]).scores(prompts)
    asked = prompts.question_ids >= 0
    np.testing.assert_allclose(found.verdict_score[asked], answered[1].verdict_score[asked], atol=1e-6)
    np.testing.assert_array_equal(found.similarity, answered[1].similarity)


def test_a_prompt_prefilled_by_its_layout_is_answered_as_by_its_mask(
    prompts: TreeBatch, answered: tuple[int, Answers]
) -> None:
    masked = make_responder(answered[0]).answer(dataclasses.replace(prompts, prefix_slots=0, question_slots=0))
    asked = prompts.question_ids >= 0
    np.testing.assert_array_equal(masked.token_ids[asked], answered[1].token_ids[asked])
    np.testing.assert_allclose(masked.verdict_score[asked], answered[1].verdict_score[asked], atol=1e-6)


def test_verdict_score_is_the_share_of_yes_at_the_first_token(
    prompts: TreeBatch, expected: tuple[np.ndarray, np.ndarray], answered: tuple[int, Answers]
) -> None:
    yes, no = (expected[1][:, list(ids)].sum(axis=1) for ids in (YES, NO))
    found = np.asarray(answered[1].verdict_score)[np.asarray(prompts.question_ids) >= 0]
    np.testing.assert_allclose(found, yes / (yes + no), atol=1e-5)
    assert found.min() < 0.4 and found.max() > 0.6


def test_similarity_is_one_without_a_reference(prompts: TreeBatch, answered: tuple[int, Answers]) -> None:
    similarity = np.asarray(answered[1].similarity)
    np.testing.assert_array_equal(similarity[1], 1.0)
    assert similarity[0, :4].max() < 1.0
    assert similarity.shape == prompts.token_labels.shape


def test_a_batch_without_room_for_references_is_answered_as_one_that_shows_none(prompts: TreeBatch) -> None:
    responder = make_responder(2)
    hidden = dataclasses.replace(prompts, reference_tile_mask=np.zeros_like(prompts.reference_tile_mask))
    bare = dataclasses.replace(
        prompts, reference_tiles=prompts.reference_tiles[:, :0], reference_tile_mask=prompts.reference_tile_mask[:, :0]
    )
    expected, found = responder.answer(hidden), responder.answer(bare)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_array_equal(found.similarity, 1.0)
    np.testing.assert_allclose(found.verdict_score, expected.verdict_score, atol=1e-6)


def test_references_as_features_are_answered_as_their_tiles(prompts: TreeBatch) -> None:
    responder = make_responder(2)
    shape = prompts.reference_tiles.shape
    features = responder.vit_features(prompts.reference_tiles.reshape(-1, *shape[2:]))
    given = dataclasses.replace(prompts, reference_tiles=features.reshape(*shape[:2], *features.shape[1:]))
    expected, found = responder.answer(prompts), responder.answer(given)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)
    np.testing.assert_allclose(found.verdict_score, expected.verdict_score, atol=1e-6)


def test_layers_apart_answer_as_the_stack_does(prompts: TreeBatch, answered: tuple[int, Answers]) -> None:
    graphdef, shapes = structure()
    params, mesh = random_params(shapes), make_mesh(MESH)
    apart = with_unstacked_layers(graphdef, params, mesh)
    kernel = apart[1]["decoder/blocks/1/mlp/up/kernel"]
    assert not params and kernel.shape == shapes["decoder/blocks/mlp/up/kernel"].shape[:0:-1]  # turned: out, in
    assert kernel.sharding == NamedSharding(mesh, PartitionSpec(("tensor",), ("fsdp",)))
    assert apart[1]["vit/blocks/1/mlp/up/kernel"].shape == shapes["vit/blocks/mlp/up/kernel"].shape[1:]
    decoding = Decoding(max_new_tokens=NEW, end_id=answered[0], verdict_ids=(YES, NO))
    found, asked = Responder(*apart, mesh, decoding).answer(prompts), prompts.question_ids >= 0
    np.testing.assert_array_equal(found.token_ids[asked], answered[1].token_ids[asked])
    np.testing.assert_allclose(found.verdict_score[asked], answered[1].verdict_score[asked], atol=1e-5)


def test_images_read_once_are_answered_about_as_from_scratch(prompts: TreeBatch, answered: tuple[int, Answers]) -> None:
    """Two batches of the same images, of other facts and other questions, go on from one prefix."""
    rng = np.random.default_rng(9)
    responder, asked = make_responder(answered[0]), prompts.question_ids >= 0
    words = rng.integers(8, VOCAB_SIZE, prompts.token_ids.shape).astype(np.int32)
    others = dataclasses.replace(
        prompts,
        fact_ids=rng.integers(8, VOCAB_SIZE, prompts.fact_ids.shape).astype(np.int32),
        token_ids=np.where(prompts.question_index >= 0, words, prompts.token_ids),
    )
    prefix = responder.encode_prefix(prompts)
    for batch in (others, prompts):
        (found, _), expected = responder.answer_from(prefix, batch), responder.answer(batch)
        np.testing.assert_array_equal(found.token_ids[asked], expected.token_ids[asked])
        np.testing.assert_allclose(found.verdict_score[asked], expected.verdict_score[asked], atol=1e-5)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)
    assert (responder.answer(others).token_ids != expected.token_ids)[asked].any()
    assert responder.answer_from(prefix, prompts, max_new_tokens=2)[0].token_ids.shape[2] == 2


@pytest.mark.parametrize(("dtype", "off"), [("bfloat16", 0.03), ("int8", 0.05)])
def test_narrow_weights_answer_nearly_alike(
    prompts: TreeBatch, answered: tuple[int, Answers], dtype: str, off: float
) -> None:
    params, mesh = narrow(dict(random_params(structure()[1])), dtype), make_mesh(MESH)
    graphdef = structure_of(nnx.eval_shape(lambda: Sage(TINY, VOCAB_SIZE, PLACEHOLDERS, nnx.Rngs(0))), params)
    assert params["decoder/blocks/mlp/up/kernel"].dtype == dtype
    assert params["decoder/output/kernel"].dtype == params["decoder/embedding/embedding"].dtype == "bfloat16"
    assert params["decoder/norm/scale"].dtype == "float32"
    decoding = Decoding(max_new_tokens=NEW, end_id=answered[0], verdict_ids=(YES, NO))
    found = Responder(*with_unstacked_layers(graphdef, params, mesh), mesh, decoding).answer(prompts)
    asked = prompts.question_ids >= 0
    apart = np.abs(found.verdict_score - answered[1].verdict_score)[asked]
    assert 0.0 < apart.max() < off
    first = found.token_ids[asked][:, 0] == answered[1].token_ids[asked][:, 0]
    assert first.mean() > 0.5  # logits of random weights stand close to each other


def test_answer_log_probabilities_are_the_same_on_any_mesh() -> None:
    batch = random_batch(2, padding_rows=1)
    split = make_responder(2).answer_logps(batch)
    whole = make_responder(2, MeshConfig(data=4, fsdp=2, tensor=1))
    rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), batch)
    assert whole.rows(4) == 8
    np.testing.assert_allclose(whole.answer_logps(rows), np.concatenate([split, split]), atol=1e-5)
    assert split.shape == batch.answer_mask.shape and (split[np.asarray(batch.answer_mask)] < 0.0).all()
    assert (split[~np.asarray(batch.answer_mask)] == 0.0).all()


def test_a_model_of_the_same_structure_compiles_nothing_where_the_one_before_is_gone(
    prompts: TreeBatch, compilations: list[str]
) -> None:
    graphdef, shapes = structure()
    params, mesh = [random_params(shapes, seed) for seed in (3, 4)], make_mesh(MESH)
    decoding = Decoding(max_new_tokens=NEW, end_id=VOCAB_SIZE, verdict_ids=(YES, NO))
    scores = []
    for each in params:
        compilations.clear()
        scores.append(Responder(graphdef, each, mesh, decoding).scores(prompts).verdict_score)
        gc.collect()
    assert not compilations
    assert np.all(scores[0] != scores[1])


def test_batches_are_filled_to_what_the_mesh_divides() -> None:
    responder = make_responder(2)
    assert [responder.rows(size) for size in (1, 4, 5, 64)] == [4, 4, 8, 64]
    assert TINY.compute_dtype == "float32"


def test_a_sequence_behind_the_last_position_is_refused_whatever_the_length_of_its_answer(prompts: TreeBatch) -> None:
    longest = int(np.sum(prompts.token_mask, axis=1).max())
    with pytest.raises(TreeError, match=rf"has {longest + NEW} tokens.* up to {longest + NEW - 1}: .*max_new_tokens"):
        make_responder(0, max_positions=longest + NEW - 1).answer(prompts)
    responder, unread = make_responder(0, max_positions=longest + NEW), cast(ImagePrefix, None)
    with pytest.raises(TreeError, match=rf"has {longest + NEW + 1} tokens.*inspect\.fact_tokens"):  # written facts
        responder.answer_from(unread, prompts, max_new_tokens=NEW + 1)
