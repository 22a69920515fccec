"""Distinct patches against brute force, and what the facts may read."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.config import ConfigError, FusionConfig
from sage_jax.models import fact_fusion
from sage_jax.models.fact_fusion import Comparison, FactEncoder, FactFusion, compare, place_vectors
from sage_jax.parameters import merge, split
from tests.support.tiny_sage import TINY, VOCAB_SIZE, random_params

WIDTH = TINY.decoder.embed_dim
NUM_PLACES = 4
DIFFERENCES = ("none", "similarity", "residual")


def random_tokens(seed: int, rows: int = 3, tokens: int = 8, references: int = 1) -> tuple[np.ndarray, ...]:
    """Tokens of test images and references with their masks; the last row has no reference."""
    rng = np.random.default_rng(seed)
    test = rng.normal(size=(rows, tokens, WIDTH)).astype(np.float32)
    reference = rng.normal(size=(rows, references * tokens, WIDTH)).astype(np.float32)
    test_mask = np.arange(tokens) < rng.integers(4, tokens + 1, (rows, 1))
    reference_mask = np.arange(tokens) < rng.integers(3, tokens + 1, (rows, references, 1))
    reference_mask[-1] = False
    return test, reference, test_mask, reference_mask.reshape(rows, -1)


def brute_force(
    test: np.ndarray, reference: np.ndarray, test_mask: np.ndarray, reference_mask: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and matched reference token of one row, token by token in float64."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    similarity, match = np.ones(len(test)), np.full(len(test), -1)
    for i in np.flatnonzero(test_mask):
        candidates = range(i, len(reference), len(test)) if kind == "aligned" else range(len(reference))
        seen = [(cosine(test[i], reference[j]), j) for j in candidates if reference_mask[j]]
        if seen:
            similarity[i], match[i] = min(seen) if kind == "min" else max(seen)
    return similarity, match


@pytest.mark.parametrize("kind", ["max", "min", "aligned"])
@pytest.mark.parametrize("num_distinct", [3, 20])
@pytest.mark.parametrize("references", [1, 3])
def test_distinct_patches_equal_brute_force(kind: str, num_distinct: int, references: int) -> None:
    for seed in range(3):
        arrays = random_tokens(seed, references=references)
        found = compare(*map(jnp.asarray, arrays), num_distinct=num_distinct, kind=kind)
        for row, (test, reference, test_mask, reference_mask) in enumerate(zip(*arrays, strict=True)):
            similarity, match = brute_force(test, reference, test_mask, reference_mask, kind)
            np.testing.assert_allclose(found.similarity[row], similarity, atol=1e-5)
            compared = match >= 0
            np.testing.assert_array_equal(np.asarray(found.match[row])[compared], match[compared])
            expected = test_mask.copy()
            if reference_mask.any():
                lowest = sorted(np.flatnonzero(test_mask), key=lambda i: similarity[i])[:num_distinct]
                expected = np.isin(np.arange(len(test)), lowest)
            np.testing.assert_array_equal(found.distinct_mask[row], expected)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_many_references_are_searched_in_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [jnp.asarray(each) for each in random_tokens(5, references=7)]
    whole = compare(*arrays, num_distinct=3, kind=kind)
    monkeypatch.setattr(fact_fusion, "MATCH_BLOCK", 9)  # the last block is not full
    blocks = compare(*arrays, num_distinct=3, kind=kind)
    np.testing.assert_array_equal(blocks.distinct_mask, whole.distinct_mask)
    np.testing.assert_allclose(blocks.similarity, whole.similarity, atol=1e-6)
    np.testing.assert_array_equal(blocks.match[:-1], whole.match[:-1])
    all_pairs = (*arrays[0].shape[:2], arrays[1].shape[1])
    shapes = [value.shape for value in _values_of(arrays, kind)]
    assert all_pairs not in shapes and (*arrays[0].shape[:2], 9) in shapes


def _values_of(arrays: list[jax.Array], kind: str) -> list[Any]:
    """Every intermediate array of the comparison, inside loops too."""

    def inside(jaxpr: Any) -> list[Any]:
        found = [variable.aval for equation in jaxpr.eqns for variable in equation.outvars]
        for equation in jaxpr.eqns:
            for value in equation.params.values():
                found += inside(value.jaxpr) if hasattr(value, "jaxpr") else []
        return found

    return inside(jax.make_jaxpr(lambda *given: compare(*given, num_distinct=3, kind=kind))(*arrays).jaxpr)


@pytest.mark.parametrize("kind", ["max", "aligned"])
def test_an_image_is_as_similar_as_its_best_reference(kind: str) -> None:
    test, one, test_mask, one_mask = (jnp.asarray(each) for each in random_tokens(6))
    every = jnp.ones_like(test_mask).at[-1].set(False)
    found = compare(
        test,
        jnp.concatenate([one, test], 1),
        test_mask,
        jnp.concatenate([one_mask, every], 1),
        num_distinct=3,
        kind=kind,
    )
    np.testing.assert_allclose(found.similarity, 1.0, atol=1e-5)
    np.testing.assert_array_equal(
        np.asarray(found.match - test.shape[1])[:-1][test_mask[:-1]], np.nonzero(test_mask[:-1])[1]
    )


def test_an_equal_image_is_similar_everywhere_and_ties_go_to_the_earlier_token() -> None:
    test = jnp.ones((1, 6, WIDTH))
    every = jnp.ones((1, 6), bool)
    found = compare(test, test, every, every, num_distinct=2, kind="max")
    np.testing.assert_allclose(found.similarity, 1.0, atol=1e-5)
    np.testing.assert_array_equal(found.distinct_mask, [[True, True, False, False, False, False]])


def make_fusion(difference: str, *, trained: bool, places: bool = False, mark: bool = False) -> FactFusion:
    fields = {"difference": difference, "difference_places": places, "mark_image": mark}
    config = dataclasses.replace(FusionConfig(num_heads=2), **fields)

    def create() -> FactFusion:
        return FactFusion(config, WIDTH, num_places=NUM_PLACES, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))

    if not trained:
        return create()
    graphdef, shapes = split(nnx.eval_shape(create))
    return merge(graphdef, random_params(shapes))


@jax.jit
def fuse(
    fusion: FactFusion, facts: jax.Array, test: jax.Array, reference: jax.Array, masks: tuple[jax.Array, jax.Array]
) -> jax.Array:
    compared = compare(test, reference, *masks, num_distinct=3, kind="max")
    return fusion(facts, test, reference, compared, masks[1].any(axis=1))[0]


def random_facts(seed: int, rows: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, 2, WIDTH)), jnp.float32)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_an_untrained_fusion_gives_zeros(difference: str) -> None:
    test, reference, *masks = map(jnp.asarray, random_tokens(4))
    fused = fuse(make_fusion(difference, trained=False), random_facts(0), test, reference, (masks[0], masks[1]))
    np.testing.assert_array_equal(fused, 0.0)
    fused = fuse(make_fusion(difference, trained=True), random_facts(0), test, reference, (masks[0], masks[1]))
    assert np.abs(fused).min() > 1e-6


@pytest.mark.parametrize("difference", ["similarity", "residual"])
def test_marks_show_the_decoder_where_the_image_differs_and_start_at_nothing(difference: str) -> None:
    test, reference, *masks = map(jnp.asarray, random_tokens(4))
    compared = compare(test, reference, *masks, num_distinct=3, kind="max")
    arguments = (random_facts(0), test, reference, compared, masks[1].any(axis=1))
    _, shown = make_fusion(difference, trained=False, places=True, mark=True)(*arguments)
    np.testing.assert_array_equal(shown, test)
    _, shown = make_fusion(difference, trained=True, places=True)(*arguments)
    np.testing.assert_array_equal(shown, test)
    _, shown = make_fusion(difference, trained=True, places=True, mark=True)(*arguments)
    moved = np.abs(np.asarray(shown - test)).max(axis=-1)
    np.testing.assert_allclose(moved[2], 0.0, atol=1e-5)  # the row without a reference differs from nothing
    assert moved[:2][np.asarray(masks[0] & masks[1])[:2]].min() > 1e-3


def test_place_vectors_are_alike_nearby_and_tell_thirds_of_a_side_apart() -> None:
    vectors = np.asarray(place_vectors(8, 64, jax.random.key(0)), np.float64)
    assert vectors.shape == (64, 64)
    assert 0.5 < vectors.std() < 1.5
    at = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(64, 2)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    steps = np.abs(at[:, None] - at[None]).sum(-1)
    assert apart[steps == 1].max() < apart[steps >= 6].min()
    # A linear reading fitted on the vectors of half of the tokens gives the row's third for the other half.
    third = np.minimum(at[:, 0] * 3 // 8, 2)
    seen = (at.sum(axis=1) % 2) == 0
    design = np.c_[vectors, np.ones(64)]
    fitted, *_ = np.linalg.lstsq(design[seen], np.eye(3)[third[seen]], rcond=None)
    assert np.mean((design[~seen] @ fitted).argmax(axis=1) == third[~seen]) > 0.85


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_facts_read_the_distinct_patches_alone_and_zero_shot_all_of_them(difference: str) -> None:
    arrays = random_tokens(5)
    test, reference, *masks = map(jnp.asarray, arrays)
    fusion, facts = make_fusion(difference, trained=True), random_facts(1)
    fused = fuse(fusion, facts, test, reference, (masks[0], masks[1]))
    compared = compare(test, reference, *masks, num_distinct=3, kind="max")
    assert compared.distinct_mask.sum(axis=1).tolist() == [3, 3, int(arrays[2][2].sum())]
    for row in range(3):  # the same with nothing but the patches to be read
        kept = np.flatnonzero(compared.distinct_mask[row])
        alone = Comparison(
            similarity=compared.similarity[row : row + 1, kept],
            distinct_mask=jnp.ones((1, len(kept)), bool),
            match=compared.match[row : row + 1, kept],
        )
        has_reference = jnp.asarray(arrays[3][row : row + 1].any(axis=1))
        cut = test[row : row + 1, kept]
        if difference == "residual":  # matches point into the whole reference
            alone = dataclasses.replace(alone, match=jnp.arange(len(kept))[None])
        matched = reference[row : row + 1, compared.match[row, kept]]
        expected, _ = fusion(facts[row : row + 1], cut, matched, alone, has_reference)
        np.testing.assert_allclose(fused[row : row + 1], expected, atol=1e-5)


def test_with_places_the_facts_read_where_the_test_image_is_unlike_its_reference() -> None:
    fusion, facts = make_fusion("similarity", trained=True, places=True), random_facts(1, rows=1)
    good = jnp.asarray(np.random.default_rng(3).normal(size=(1, 2 * NUM_PLACES, WIDTH)), jnp.float32)
    everywhere, token = jnp.ones((1, 2 * NUM_PLACES), bool), np.arange(2 * NUM_PLACES)[None]

    def with_odd_token_at(place: int, *, similarity: float) -> np.ndarray:
        """Comparison embeddings of the same patches, one of them of another similarity."""
        compared = Comparison(
            similarity=jnp.where(token == place, similarity, 1.0), distinct_mask=everywhere, match=jnp.asarray(token)
        )
        same = jnp.broadcast_to(good[:, :1], good.shape)
        return np.asarray(fusion(facts, same, good, compared, jnp.ones(1, bool))[0])

    # All patches are the same vector, so that nothing but the place can tell these apart.
    assert np.abs(with_odd_token_at(1, similarity=0.2) - with_odd_token_at(2, similarity=0.2)).max() > 1e-3
    np.testing.assert_allclose(
        with_odd_token_at(1, similarity=0.2), with_odd_token_at(1 + NUM_PLACES, similarity=0.2), atol=1e-5
    )  # the same place of another tile
    np.testing.assert_array_equal(with_odd_token_at(1, similarity=1.0), with_odd_token_at(2, similarity=1.0))


def test_places_need_a_difference_to_scale_them() -> None:
    with pytest.raises(ConfigError, match=r"difference_places = True .* set difference to similarity or residual"):
        FusionConfig(difference_places=True)


def test_the_choice_of_patches_carries_no_gradient() -> None:
    test, reference, *masks = map(jnp.asarray, random_tokens(6))
    plain, residual = (make_fusion(difference, trained=True) for difference in ("none", "residual"))

    def total(fusion: FactFusion, reference: jax.Array) -> jax.Array:
        return jnp.sum(fuse(fusion, random_facts(2), test, reference, (masks[0], masks[1])) ** 2)

    gradient_of = jax.jit(jax.grad(total, argnums=1))
    np.testing.assert_array_equal(gradient_of(plain, reference), 0.0)  # the reference chooses, and does nothing else
    gradient = gradient_of(residual, reference)
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).max() > 1e-4
    np.testing.assert_array_equal(gradient[2], 0.0)  # a row without a reference


@pytest.mark.parametrize("kind", ["embedding_mean", "hidden_mean"])
def test_a_fact_is_the_mean_over_its_real_tokens(kind: Any) -> None:
    def create() -> FactEncoder:
        return FactEncoder(TINY.decoder, kind, VOCAB_SIZE, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    encoder = merge(graphdef, random_params(shapes))
    rng = np.random.default_rng(7)
    ids = rng.integers(0, VOCAB_SIZE, (2, 2, 5))
    sizes = np.array([[5, 2], [3, 0]])
    found = jax.jit(lambda encoder, ids, mask: encoder(ids, mask))(
        encoder, jnp.asarray(ids), jnp.asarray(np.arange(5) < sizes[..., None])
    )
    for row, fact in np.ndindex(2, 2):
        real = jnp.asarray(ids[row, fact, : sizes[row, fact]])[None]
        if not sizes[row, fact]:
            np.testing.assert_array_equal(found[row, fact], 0.0)
        elif kind == "embedding_mean":
            states = np.asarray(encoder.embedding.embedding[...])[np.asarray(real)]
            np.testing.assert_allclose(found[row, fact], states[0].mean(axis=0), atol=1e-5)
        else:
            size = real.shape[1]
            mask = jnp.tril(jnp.ones((1, size, size), bool))
            states, _ = encoder.decoder(encoder.decoder.embedding(real), jnp.arange(size)[None], mask)
            np.testing.assert_allclose(found[row, fact], states[0].mean(axis=0), atol=1e-5)
