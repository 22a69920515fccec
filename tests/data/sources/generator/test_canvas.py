"""The generator's drawing surface, against geometry done point by point."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.data.sources.generator.canvas import box_distance, canvas, disc_distance, mix, smooth_noise, tint

SIDE = 48


def test_coordinates_follow_shift_and_turn() -> None:
    turn, shift = 0.3, (0.2, -0.1)
    c = canvas(SIDE, shift_u=shift[0], shift_v=shift[1], turn=turn)
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, SIDE, (20, 2)):
        point = (np.array([column, row]) + 0.5) * 2.0 / SIDE - 1.0 - shift
        back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ point
        assert (c.u[row, column], c.v[row, column]) == pytest.approx(back, abs=1e-5)
        assert c.radius[row, column] == pytest.approx(np.hypot(*back), abs=1e-5)


def test_distances_are_euclidean_outside_and_negative_inside() -> None:
    c = canvas(SIDE)
    half, corner = (0.6, 0.4), 0.1
    found = box_distance(c, *half, corner)
    round_about = np.linspace(0.0, 2.0 * np.pi, 4000)
    points = np.stack([np.cos(round_about), np.sin(round_about)], axis=1)
    corners = np.sign(points) * (np.array(half) - corner) + corner * points
    along_u, along_v = (np.linspace(corner - each, each - corner, 400) for each in half)
    sides = [np.stack([np.full(400, sign * half[0]), along_v], axis=1) for sign in (-1, 1)]
    sides += [np.stack([along_u, np.full(400, sign * half[1])], axis=1) for sign in (-1, 1)]
    edge = np.concatenate([corners, *sides])
    for row, column in np.random.default_rng(1).integers(0, SIDE, (40, 2)):
        point = np.array([c.u[row, column], c.v[row, column]])
        apart = np.hypot(*(edge - point).T).min()
        assert abs(found[row, column]) == pytest.approx(apart, abs=0.01)
        assert found[row, column] > 0 or (np.abs(point) <= np.array(half)).all()
    disc = disc_distance(c, 0.1, -0.2, 0.3)
    np.testing.assert_allclose(disc, np.hypot(c.u - 0.1, c.v + 0.2) - 0.3, atol=1e-6)


def test_cover_is_the_share_of_a_disc_in_area() -> None:
    c = canvas(200)
    assert c.cover(disc_distance(c, 0.0, 0.0, 0.5)).mean() * 4.0 == pytest.approx(np.pi * 0.25, rel=2e-3)


def test_noise_has_deviation_one_at_its_knots_and_is_smooth_between() -> None:
    fields = np.stack([smooth_noise(np.random.default_rng(seed), SIDE, 6) for seed in range(400)])
    assert fields[:, 0, 0].std() == pytest.approx(1.0, abs=0.1) and fields[:, 0, 0].mean() == pytest.approx(
        0.0, abs=0.15
    )
    steps = np.abs(np.diff(fields, axis=2)).mean()
    rough = np.abs(np.diff(smooth_noise(np.random.default_rng(0), SIDE, SIDE), axis=1)).mean()
    assert steps < 0.3 * rough


def test_colours_are_shaded_and_mixed_by_pixel() -> None:
    red, blue = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    shade = np.array([[0.5, 1.0]])
    np.testing.assert_allclose(tint(red, shade), [[[0.5, 0, 0], [1, 0, 0]]])
    np.testing.assert_allclose(mix(red, blue, np.array([[0.25, 1.0]])), [[[0.75, 0, 0.25], [0, 0, 1]]])
