"""Words of places by decoder and map together, against numpy and scipy on random maps."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, special

from sage_jax.data.adpl.preferences import cell_of
from sage_jax.data.records import Box
from sage_jax.generation.place_tokens import PlaceIds, by_evidence, place_evidence, without_named
from sage_jax.metrics.localisation import peak_boxes

SIDE = 8
LEFT, RIGHT, UPPER, LOWER = 5, 6, 7, 8
PLACES: PlaceIds = ((UPPER, LEFT), (9,), (UPPER, RIGHT), (LEFT,), (10,), (RIGHT,), (LOWER, LEFT), (11,), (LOWER, RIGHT))
NAMES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")
NO_REGION = float(special.logit(1e-3))


def random_maps(number: int, seed: int) -> np.ndarray:
    """Similarities of images with none to three blobs."""
    rng, y, x = np.random.default_rng(seed), *np.mgrid[:SIDE, :SIDE]
    maps = rng.uniform(0.0, 0.1, (number, SIDE, SIDE))
    for index in range(number):
        for _ in range(index % 4):
            top, left, radius = *rng.uniform(0, SIDE - 1, 2), rng.uniform(0.6, 2.0)
            maps[index][np.hypot(y - top, x - left) < radius] = rng.uniform(0.55, 0.99)
    return 1.0 - maps.reshape(number, SIDE * SIDE).astype(np.float32)


def test_evidence_is_that_of_the_boxes_of_the_map() -> None:
    similarity = random_maps(60, 0)
    found = np.asarray(place_evidence(jnp.asarray(similarity), SIDE * SIDE))
    regions = 0
    for row, values in enumerate(1.0 - similarity.reshape(-1, SIDE, SIDE)):
        fine = np.asarray(Image.fromarray(values).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BILINEAR))
        level = 0.5 if fine.max() >= 0.5 else 0.6 * fine.max()
        wanted = np.full(9, 1e-3)
        for *box, score in peak_boxes(fine, threshold=level, max_boxes=100):
            cell = NAMES.index(cell_of(Box(*box), 4 * SIDE, 4 * SIDE))
            wanted[cell] = np.clip(score, wanted[cell], 1.0 - 1e-3)
            regions += 1
        np.testing.assert_allclose(found[row], special.logit(wanted), atol=2e-3)
    assert regions > 60


def test_a_winding_region_is_one() -> None:
    values = np.zeros((SIDE, SIDE), np.float32)
    values[::2], values[1::4, -1], values[3::4, 0] = 0.9, 0.9, 0.9  # from the top to the bottom in one line
    labels = np.zeros((SIDE, SIDE), np.int32)
    ndimage.label(values > 0.5, output=labels)
    assert labels.max() == 1
    found = np.asarray(place_evidence(1.0 - jnp.asarray(values.reshape(1, -1)), SIDE * SIDE))[0]
    assert found.argmax() == NAMES.index("centre") and (np.delete(found, found.argmax()) == found.min()).all()


@pytest.mark.parametrize("similarity", [np.ones((2, SIDE * SIDE)), np.random.default_rng(0).random((2, 2 * SIDE**2))])
def test_without_a_region_or_with_several_tiles_nothing_is_preferred(similarity: np.ndarray) -> None:
    found = np.asarray(place_evidence(jnp.asarray(similarity, jnp.float32), SIDE * SIDE))
    assert (found == found[0, 0]).all()


def test_words_of_places_share_what_they_had_by_decoder_and_map() -> None:
    rng = np.random.default_rng(1)
    logits, evidence = rng.normal(0.0, 3.0, (4, 3, 14)), rng.normal(0.0, 4.0, (4, 3, 9))
    before = np.array([[UPPER, 3, LOWER]] * 4)
    arrays = jnp.asarray(logits), jnp.asarray(before), jnp.asarray(evidence)
    found = np.asarray(by_evidence(arrays[0], arrays[1], arrays[2], PLACES, 0.7), np.float64)
    for row, question in np.ndindex(4, 3):
        old, new, own = logits[row, question], found[row, question], evidence[row, question]
        if before[row, question] in (UPPER, LOWER):
            ids = [LEFT, RIGHT]
            cells = [[cell] for cell in ((0, 2) if before[row, question] == UPPER else (6, 8))]
        else:
            ids, cells = [UPPER, 9, LEFT, 10, RIGHT, LOWER, 11], [[0, 2], [1], [3], [4], [5], [6, 8], [7]]
        others = [each for each in range(14) if each not in ids]
        np.testing.assert_array_equal(new[others], old[others].astype(np.float32))
        wanted = old[ids] + 0.7 * np.array([np.log(np.mean(np.exp(own[cell]))) for cell in cells])
        wanted += special.logsumexp(old[ids]) - special.logsumexp(wanted)
        np.testing.assert_allclose(new[ids], wanted, atol=1e-4)


def test_without_a_region_the_decoder_alone_chooses() -> None:
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(0.0, 3.0, (3, 2, 14)), jnp.float32)
    before = jnp.asarray([[UPPER, 3], [LOWER, 9], [3, 3]])
    evidence = jnp.broadcast_to(place_evidence(jnp.ones((3, SIDE * SIDE)), SIDE * SIDE)[:, None], (3, 2, 9))
    for _ in range(2):
        np.testing.assert_allclose(by_evidence(logits, before, evidence, PLACES, 1.0), logits, atol=1e-5)
        evidence = without_named(evidence, before, jnp.full((3, 2), LEFT), PLACES)


def test_where_no_word_of_a_place_is_possible_none_becomes_so() -> None:
    rng = np.random.default_rng(6)
    evidence = jnp.asarray(rng.normal(0.0, 3.0, (2, 2, 9)), jnp.float32)
    logits = jnp.full((2, 2, 14), -jnp.inf).at[..., 1:3].set(jnp.asarray(rng.normal(0.0, 1.0, (2, 2, 2))))
    for before in (None, jnp.full((2, 2), UPPER)):
        np.testing.assert_array_equal(by_evidence(logits, before, evidence, PLACES, 1.0), logits)
    one = logits.at[..., 9].set(0.5)
    np.testing.assert_allclose(by_evidence(one, None, evidence, PLACES, 1.0), one, atol=1e-5)


def test_at_an_answers_first_token_no_second_word_comes() -> None:
    rng = np.random.default_rng(2)
    logits, evidence = (jnp.asarray(rng.normal(0.0, 3.0, shape), jnp.float32) for shape in ((2, 1, 14), (2, 1, 9)))
    first = by_evidence(logits, None, evidence, PLACES, 1.0)
    np.testing.assert_array_equal(first, by_evidence(logits, jnp.full((2, 1), 3), evidence, PLACES, 1.0))


@pytest.mark.parametrize(
    ("before", "token", "cell"),
    [(3, 9, 1), (3, LEFT, 3), (UPPER, LEFT, 0), (LOWER, RIGHT, 8), (3, UPPER, None), (None, 10, 4), (UPPER, 10, None)],
)
def test_a_cell_that_was_named_gives_way_to_others(before: int | None, token: int, cell: int | None) -> None:
    evidence = jnp.asarray(np.random.default_rng(3).normal(0.0, 1.0, (1, 1, 9)), jnp.float32)
    seen = None if before is None else jnp.full((1, 1), before)
    found = np.asarray(without_named(evidence, seen, jnp.full((1, 1), token), PLACES))[0, 0]
    for each in range(9):
        wanted = NO_REGION if each == cell else float(evidence[0, 0, each])
        np.testing.assert_allclose(found[each], wanted, rtol=1e-5)
