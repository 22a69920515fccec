"""Seamless blending solves the Poisson equation; fields and shapes are what they say."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from sage_jax.data.drawing import fields


def test_seamless_solves_the_poisson_equation() -> None:
    rng = np.random.default_rng(4)
    under, patch = rng.random((9, 12, 3)), rng.random((9, 12, 3))
    found = fields.seamless(under, patch)
    border = np.ones((9, 12), bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_allclose(found[border], under[border], atol=1e-12)
    inner = np.argwhere(~border)
    place = {tuple(at): number for number, at in enumerate(inner)}
    matrix, right = sparse.lil_matrix((len(inner), len(inner))), np.zeros((len(inner), 3))
    for (y, x), number in place.items():
        matrix[number, number] = 4.0
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            right[number] += patch[y, x] - patch[near]
            if near in place:
                matrix[number, place[near]] = -1.0
            else:
                right[number] += under[near]
    wanted = np.asarray(linalg.spsolve(matrix.tocsc(), right))
    np.testing.assert_allclose(found[~border], wanted, atol=1e-9)
    np.testing.assert_array_equal(fields.seamless(under[:2], patch[:2]), patch[:2])


def test_a_patch_with_the_right_border_stays_as_it_is() -> None:
    under = np.random.default_rng(1).random((8, 8, 3))
    patch = under.copy()
    patch[3:5, 3:5] += 0.5
    np.testing.assert_allclose(fields.seamless(under, patch), patch, atol=1e-12)


def test_distances_are_in_pixels() -> None:
    grid = fields.grid(20, 30, 20.0)
    line = fields.stroke(grid, np.array([[10.0, 0.0], [10.0, 29.0]]))
    np.testing.assert_allclose(line[:, 5], np.abs(np.arange(20) - 10.0), atol=1e-6)
    disc = fields.blob(grid, 10.0, 15.0, 5.0, np.random.default_rng(0), rough=0.0)
    assert disc[10, 15] == -5.0 and disc[0, 0] > 0.0
    np.testing.assert_allclose(grid.cover(np.array([-2.0, 0.0, 2.0])), [1.0, 0.5, 0.0])
    steps = np.linalg.norm(np.diff(fields.walk(5.0, 6.0, 12.0, np.zeros(4), np.random.default_rng(2)), axis=0), axis=1)
    np.testing.assert_allclose(steps, 3.0)


def test_noise_is_smooth_and_has_several_scales() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = (fields.smooth_field(rng, 64, 96, knots) for knots in (3, 40))
    assert coarse.shape == fine.shape == (64, 96)
    assert np.abs(np.diff(coarse)).mean() * 3.0 < np.abs(np.diff(fine)).mean()
    assert 0.9 < fields.perlin(rng, 64, 64).std() < 1.1
