"""Boxes of the peaks of anomaly maps."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.metrics.localisation import peak_boxes


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
