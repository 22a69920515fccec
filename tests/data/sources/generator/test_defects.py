"""Each kind of drawn defect: where it may change the picture, and what it looks like."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.data.sources.generator.canvas import canvas, disc_distance
from sage_jax.data.sources.generator.defects import AT_EDGE, MAKERS, MARGIN

SIDE = 96
CANVAS = canvas(SIDE)
PICTURE = np.full((SIDE, SIDE, 3), 0.5, np.float32)
BELT = np.full((SIDE, SIDE, 3), 0.15, np.float32)
INSIDE = disc_distance(CANVAS, 0.0, 0.0, 0.8)


def changed(name: str, seed: int, u: float = 0.1, v: float = -0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    picture = MAKERS[name](CANVAS, PICTURE, BELT, INSIDE, u, v, rng)
    return picture, np.abs(picture - PICTURE).max(axis=-1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MAKERS)
def test_a_defect_is_seen_where_it_was_put_and_nowhere_far(name: str, seed: int) -> None:
    picture, change = changed(name, seed)
    assert 0.0 <= picture.min() and picture.max() <= 1.0 and change.max() > 0.1
    rows, columns = np.nonzero(change > 0.04)
    middle = np.array([CANVAS.u[rows, columns].mean(), CANVAS.v[rows, columns].mean()])
    assert np.hypot(*(middle - (0.1, -0.1))) < 0.3
    assert np.hypot(CANVAS.u[rows, columns] - 0.1, CANVAS.v[rows, columns] + 0.1).max() < 0.9


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"contamination"}))
def test_only_what_lies_on_the_part_reaches_beyond_it(name: str) -> None:
    for seed in range(4):
        _, change = changed(name, seed, 0.7, 0.0)
        assert change[INSIDE > 2 * CANVAS.px].max() < 0.02
    _, change = changed("contamination", 0, 0.75, 0.0)
    assert change[INSIDE > 2 * CANVAS.px].max() > 0.1


def test_each_kind_has_its_own_look() -> None:
    def spot(name: str) -> np.ndarray:
        picture, change = changed(name, 3)
        return picture[change > 0.5 * change.max()].mean(axis=0)

    assert spot("crack").max() < 0.2 and spot("hole").max() < 0.3
    red, green, blue = spot("stain")
    assert red > green > blue  # brown
    red, green, blue = spot("discolouration")
    assert red > blue and green > blue and red > 0.6  # pale yellow
    assert np.allclose(spot("missing piece"), 0.15, atol=0.05)  # the belt
    dent, _ = changed("dent", 3)
    assert dent.max() > 0.6 and dent.min() < 0.4  # light on one side, shade on the other


def test_margins_and_edges_name_kinds() -> None:
    assert MARGIN.keys() <= MAKERS.keys() and AT_EDGE <= MAKERS.keys()
