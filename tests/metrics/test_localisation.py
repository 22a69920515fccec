"""Pixel AUROC and peak boxes of anomaly maps."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sage_jax.metrics.intervals import UNDEFINED
from sage_jax.metrics.localisation import peak_boxes, pixel_auroc


def random_maps(seed: int, count: int, *, levels: int = 0) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Maps of several sizes whose anomalous pixels tend to be larger; every third image is good."""
    generator = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        height, width = generator.integers(20, 60, size=2)
        mask = np.zeros((height, width), bool)
        if index % 3:
            mask[3:12, 4:15] = True
        values = np.exp(3 * (generator.normal(size=mask.shape) * 0.3 + 0.4 * mask)).astype(np.float32)
        maps.append(np.round(values * levels) / levels if levels else values)
        masks.append(mask)
    return maps, masks


def all_pixels(maps: list[np.ndarray], masks: list[np.ndarray | None]) -> float:
    known = [(values, mask) for values, mask in zip(maps, masks, strict=True) if mask is not None]
    return float(
        roc_auc_score(
            np.concatenate([mask.ravel() for _, mask in known]), np.concatenate([v.ravel() for v, _ in known])
        )
    )


@pytest.mark.parametrize("levels, tolerance", [(0, 1.3e-4), (5, 1e-12)])
def test_pixel_auroc_equals_scikit_learn_over_all_pixels(levels: int, tolerance: float):
    maps, masks = random_maps(0, 30, levels=levels)
    masks[4] = None
    metric = pixel_auroc(maps, masks, list(range(30)), samples=50)
    assert metric.value == pytest.approx(all_pixels(maps, masks), abs=tolerance)
    assert metric.n == 29
    assert metric.low is not None and metric.value is not None and metric.high is not None
    assert metric.low < metric.value < metric.high


def test_interval_equals_drawing_images_and_pooling_their_pixels():
    maps, masks = random_maps(1, 15)
    metric = pixel_auroc(maps, masks, list(range(15)), samples=800, seed=1)
    generator, draws = np.random.default_rng(2), []
    for _ in range(150):
        chosen = generator.integers(0, 15, size=15)
        draws.append(all_pixels([maps[index] for index in chosen], [masks[index] for index in chosen]))
    assert metric.low == pytest.approx(np.percentile(draws, 2.5), abs=0.01)
    assert metric.high == pytest.approx(np.percentile(draws, 97.5), abs=0.01)


def test_increasing_transformation_of_all_maps_changes_nothing():
    maps, masks = random_maps(2, 12)
    plain = pixel_auroc(maps, masks, list(range(12)), samples=10).value
    logs = pixel_auroc([np.log(values) for values in maps], masks, list(range(12)), samples=10).value
    assert plain == pytest.approx(logs, abs=1e-6)


def test_constant_maps_give_a_half():
    _, masks = random_maps(3, 6)
    flat = [np.zeros(mask.shape, np.float32) for mask in masks if mask is not None]
    assert pixel_auroc(flat, masks, list(range(6)), samples=10).value == 0.5


def test_without_masks_or_with_one_class_it_is_undefined():
    maps, masks = random_maps(4, 3)
    assert pixel_auroc(maps, [None] * 3, [0, 1, 2]) == UNDEFINED
    assert pixel_auroc(maps[:1], masks[:1], [0]) == UNDEFINED


def test_wrong_maps_are_named():
    maps, masks = random_maps(5, 2)
    with pytest.raises(ValueError, match=r"map 1 is .* its mask"):
        pixel_auroc([maps[0], maps[1][1:]], masks, [0, 1])
    maps[0][2, 2] = np.nan
    with pytest.raises(ValueError, match="map 0"):
        pixel_auroc(maps, masks, [0, 1])


def test_maps_that_are_made_when_asked_for_are_not_kept():
    _, masks = random_maps(3, 12)
    maps: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    class Made(list[np.ndarray]):
        def __len__(self) -> int:
            return len(masks)

        def __getitem__(self, index: Any) -> Any:
            mask = masks[index]
            assert mask is not None
            found = np.random.default_rng(index).random(mask.shape, np.float32)
            maps.append(weakref.ref(found))
            alive.append(sum(each() is not None for each in maps))
            return found

    assert pixel_auroc(Made(), masks, range(12), samples=2).value is not None
    assert len(maps) == 24 and max(alive) <= 2


def test_peak_boxes_frame_each_region_and_the_highest_comes_first():
    generator = np.random.default_rng(6)
    values = generator.uniform(0, 0.4, size=(40, 60)).astype(np.float32)
    values[5:9, 10:21] = 0.6
    values[7, 12] = 0.7
    values[30:33, 40:42] = 0.9
    boxes = peak_boxes(values, threshold=0.5, max_boxes=5)
    assert [box[:4] for box in boxes] == [(40, 30, 42, 33), (10, 5, 21, 9)]
    assert [box[4] for box in boxes] == pytest.approx([0.9, 0.7])
    assert peak_boxes(values, threshold=0.5, max_boxes=1) == boxes[:1]


def test_pixels_that_touch_at_a_corner_are_one_region():
    assert len(peak_boxes(np.eye(5, dtype=np.float32), threshold=0.5, max_boxes=9)) == 1


def test_boxes_hold_every_pixel_at_the_threshold_and_no_map_below_it_has_one():
    values = np.random.default_rng(7).random((30, 30)).astype(np.float32)
    held = np.zeros(values.shape, bool)
    for left, top, right, bottom, score in peak_boxes(values, threshold=0.8, max_boxes=900):
        held[top:bottom, left:right] = True
        assert values[top:bottom, left:right].max() >= score >= 0.8
    assert held[values >= 0.8].all()
    assert peak_boxes(values, threshold=1.1, max_boxes=9) == []
    peak = float(values.max())
    assert [box[4] for box in peak_boxes(values, threshold=peak, max_boxes=9)] == [peak]
