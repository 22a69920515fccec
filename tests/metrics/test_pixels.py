"""Metrics of anomaly maps over all pixels, against scikit-learn and a plain reading of the per-region overlap."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from sage_jax.metrics import pixels
from sage_jax.metrics.intervals import UNDEFINED
from sage_jax.metrics.pixels import PIXEL_METRICS, pixel_metrics


def overlap_by_threshold(maps: list[np.ndarray], masks: list[np.ndarray | None], limit: float = 0.3) -> float:
    """AUPRO by its definition: for each threshold the mean share of each region that is found, against false alarms."""
    regions = []
    for index, mask in enumerate(masks):
        assert mask is not None
        labels = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, structure=np.ones((3, 3)), output=labels)
        regions += [(index, labels == number + 1) for number in range(labels.max())]
    good = np.concatenate([values[~mask] for values, mask in zip(maps, masks, strict=True) if mask is not None])
    curve = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([values.ravel() for values in maps]))[::-1]:
        found = [float((maps[index][region] >= threshold).mean()) for index, region in regions]
        curve.append((float((good >= threshold).mean()), float(np.mean(found))))
    rates, overlaps = np.array(curve).T
    inside = rates <= limit
    at_limit = np.interp(limit, rates, overlaps)
    return float(np.trapezoid([*overlaps[inside], at_limit], [*rates[inside], limit]) / limit)


def several_regions(seed: int, *, levels: int = 0) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Five maps with regions of several sizes, some of which touch at a corner; the last is good."""
    generator = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(5):
        mask = np.zeros((18, 20), bool)
        if index < 4:
            mask[2:4, 2 : 5 + index] = mask[4 : 6 + index, 5 + index : 8 + index] = mask[14:17, 15] = True
        values = (generator.normal(size=mask.shape) + 1.2 * mask).astype(np.float32)
        maps.append(np.round(values * levels) / levels if levels else values)
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_their_definitions(seed: int, levels: int) -> None:
    maps, masks = several_regions(seed, levels=levels)
    truth = np.concatenate([mask.ravel() for mask in masks if mask is not None])
    scores = np.concatenate([values.ravel() for values in maps])
    found = {name: metric.value for name, metric in pixel_metrics(maps, masks, range(5), samples=5).items()}
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found["pixel_average_precision"] == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert found["pixel_f1_max"] == pytest.approx(best, abs=1e-9)
    assert found["aupro"] == pytest.approx(overlap_by_threshold(maps, masks), abs=1e-9)


def test_many_pixels_are_counted_in_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = several_regions(7)
    exact = pixel_metrics(maps, masks, range(5), samples=5)
    monkeypatch.setattr(pixels, "_EXACT_PIXELS", 100)
    monkeypatch.setattr(pixels, "_NUM_BINS", 400)
    binned = pixel_metrics(maps, masks, range(5), samples=5)
    assert exact["pixel_auroc"].value != binned["pixel_auroc"].value
    for name in PIXEL_METRICS:
        assert exact[name].value == pytest.approx(binned[name].value, abs=0.02)


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


@pytest.mark.parametrize("levels, tolerance", [(0, 1e-12), (5, 1e-12)])
def test_pixel_auroc_equals_scikit_learn_over_all_pixels(levels: int, tolerance: float):
    maps, masks = random_maps(0, 30, levels=levels)
    masks[4] = None
    metric = pixel_metrics(maps, masks, list(range(30)), samples=50)["pixel_auroc"]
    assert metric.value == pytest.approx(all_pixels(maps, masks), abs=tolerance)
    assert metric.n == 29
    assert metric.low is not None and metric.value is not None and metric.high is not None
    assert metric.low < metric.value < metric.high


def test_interval_equals_drawing_images_and_pooling_their_pixels():
    maps, masks = random_maps(1, 15)
    metric = pixel_metrics(maps, masks, list(range(15)), samples=800, seed=1)["pixel_auroc"]
    generator, draws = np.random.default_rng(2), []
    for _ in range(150):
        chosen = generator.integers(0, 15, size=15)
        draws.append(all_pixels([maps[index] for index in chosen], [masks[index] for index in chosen]))
    assert metric.low == pytest.approx(np.percentile(draws, 2.5), abs=0.01)
    assert metric.high == pytest.approx(np.percentile(draws, 97.5), abs=0.01)


def test_increasing_transformation_of_all_maps_changes_nothing():
    maps, masks = random_maps(2, 12)
    plain = pixel_metrics(maps, masks, list(range(12)), samples=10)["pixel_auroc"].value
    logs = pixel_metrics([np.log(values) for values in maps], masks, list(range(12)), samples=10)["pixel_auroc"].value
    assert plain == pytest.approx(logs, abs=1e-6)


def test_constant_maps_give_a_half():
    _, masks = random_maps(3, 6)
    flat = [np.zeros(mask.shape, np.float32) for mask in masks if mask is not None]
    assert pixel_metrics(flat, masks, list(range(6)), samples=10)["pixel_auroc"].value == 0.5


def test_without_masks_or_with_one_class_it_is_undefined():
    maps, masks = random_maps(4, 3)
    assert pixel_metrics(maps, [None] * 3, [0, 1, 2]) == dict.fromkeys(PIXEL_METRICS, UNDEFINED)
    assert pixel_metrics(maps[:1], masks[:1], [0]) == dict.fromkeys(PIXEL_METRICS, UNDEFINED)


def test_wrong_maps_are_named():
    maps, masks = random_maps(5, 2)
    with pytest.raises(ValueError, match=r"map 1 is .* its mask"):
        pixel_metrics([maps[0], maps[1][1:]], masks, [0, 1])
    maps[0][2, 2] = np.nan
    with pytest.raises(ValueError, match="map 0"):
        pixel_metrics(maps, masks, [0, 1])


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

    assert pixel_metrics(Made(), masks, range(12), samples=2)["pixel_auroc"].value is not None
    assert len(maps) == 24 and max(alive) <= 2
