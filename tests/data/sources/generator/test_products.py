"""Every product can be painted, looks different from the others, and leaves colours for its defects."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.data.sources.generator.canvas import canvas
from sage_jax.data.sources.generator.products import ACCENTS, BODY_COLOURS, PAINTERS, Product

SIDE = 64


def product(name: str, seed: int) -> Product:
    rng = np.random.default_rng(seed)
    colour = np.asarray(BODY_COLOURS[name][0], np.float32)
    return Product(colour, np.asarray(ACCENTS[0], np.float32), np.full(3, 0.2, np.float32), 1.0, float(rng.random()))


@pytest.mark.parametrize("detail", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", PAINTERS)
def test_a_part_fills_a_fair_share_of_the_picture_and_stays_inside_it(name: str, detail: float) -> None:
    one = Product(np.full(3, 0.5), np.full(3, 0.7), np.full(3, 0.2), 1.0, detail)
    body, inside = PAINTERS[name](canvas(SIDE), one, np.random.default_rng(0))
    part = inside < 0
    assert body.shape == (SIDE, SIDE, 3) and 0.0 < body.min() and body[part].max() < 1.05
    assert 0.2 < part.mean() < 0.85
    assert not part[0].any() and not part[-1].any() and not part[:, 0].any() and not part[:, -1].any()


def test_no_two_products_have_one_outline_and_surface() -> None:
    painted = {}
    for name, paint in PAINTERS.items():
        one = Product(np.full(3, 0.5), np.full(3, 0.7), np.full(3, 0.2), 1.0, 0.5)
        body, inside = paint(canvas(SIDE), one, np.random.default_rng(0))
        painted[name] = np.where((inside < 0)[..., None], body, 0.0)
    names = list(painted)
    for index, name in enumerate(names):
        for other in names[:index]:
            assert np.abs(painted[name] - painted[other]).mean() > 0.01, (name, other)


def test_body_colours_are_clear_of_holes_and_scratches() -> None:
    assert BODY_COLOURS.keys() == PAINTERS.keys()
    for name, colours in BODY_COLOURS.items():
        for colour in colours:
            assert 0.25 < np.mean(colour) < 0.8, name


def test_the_same_draw_paints_the_same_part() -> None:
    for name, paint in PAINTERS.items():
        first, second = (paint(canvas(SIDE), product(name, 1), np.random.default_rng(2)) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
