"""Each kind of defect changes a picture about its place, and each looks different."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.drawing.fields import grid, smooth_field
from sage_jax.data.drawing.marks import BEYOND, MAKERS, Part


def part_of(seed: int, level: float = 0.5) -> Part:
    rng = np.random.default_rng(seed)
    picture, donor = (
        np.clip(level + 0.1 * smooth_field(rng, 96, 128, 12)[..., None] + rng.normal(0, 0.01, (96, 128, 3)), 0, 1)
        for _ in range(2)
    )
    return Part(picture, np.ones((96, 128), bool), None, donor, grid(96, 128, 96.0))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_a_defect_shows_about_its_place(kind: str, level: float) -> None:
    shown = []
    for seed in range(12):
        part, rng = part_of(seed, level), np.random.default_rng(seed)
        changed = MAKERS[kind](part, 48.0, 64.0, rng)
        assert changed.shape == part.picture.shape and np.isfinite(changed).all()
        apart = np.abs(np.clip(changed, 0.0, 1.0) - part.picture).max(axis=-1)
        again = MAKERS[kind](part, 48.0, 64.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed, again)
        rows, columns = np.nonzero(apart > 0.06)
        if len(rows):
            shown.append(np.hypot(rows.mean() - 48.0, columns.mean() - 64.0))
            assert (apart > 0.06).mean() < 0.5
    assert len(shown) >= (3 if kind == "distortion" else 8) and np.median(shown) < 20.0


def test_the_ground_shows_where_a_piece_is_missing() -> None:
    part = dataclasses.replace(part_of(0), ground=np.array([0.9, 0.1, 0.1]))
    changed = MAKERS["missing piece"](part, 48.0, 64.0, np.random.default_rng(1))
    np.testing.assert_allclose(changed[48, 64], [0.9, 0.1, 0.1], atol=0.05)


def test_the_vocabulary_knows_every_kind() -> None:
    vocabulary = load_vocabulary("")
    assert all(kind in vocabulary.defect_terms for kind in MAKERS) and BEYOND <= set(MAKERS)
