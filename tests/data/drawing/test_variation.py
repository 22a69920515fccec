"""A varied picture shows the same part: edges within about a pixel, light within a tenth."""

from __future__ import annotations

import numpy as np

from sage_jax.data.drawing.variation import vary


def test_nothing_changes_at_zero_and_more_at_more() -> None:
    picture = np.random.default_rng(0).random((48, 64, 3)).astype(np.float32)
    assert vary(picture, np.random.default_rng(1), 0.0) is picture
    apart = [
        np.mean([np.abs(vary(picture, np.random.default_rng(seed), amount) - picture).mean() for seed in range(8)])
        for amount in (0.2, 1.0)
    ]
    assert 0.0 < apart[0] < apart[1]
    first, again = (vary(picture, np.random.default_rng(3), 1.0) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_edges_move_by_a_pixel_or_two_and_light_by_a_tenth() -> None:
    picture = np.full((64, 64, 3), 0.3, np.float32)
    picture[:, 32:] = 0.7
    edges, levels = [], []
    for seed in range(60):
        varied = vary(picture, np.random.default_rng(seed), 1.0)
        assert varied.dtype == np.float32 and varied.min() >= 0.0 and varied.max() <= 1.0
        middle = (varied[:, 4:12].mean() + varied[:, -12:-4].mean()) / 2.0
        edges.append(np.argmax(varied.mean(axis=-1) > middle, axis=1)[4:-4] - 32.0)
        levels.append(varied.mean() / picture.mean())
    moved = np.abs(np.concatenate(edges))
    assert 0.3 < moved.mean() < 1.5 and np.quantile(moved, 0.99) <= 4.0
    assert 0.02 < np.std(levels) < 0.12 and max(np.abs(np.array(levels) - 1.0)) < 0.25
