"""Detection over records: each image once, maps and masks made when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sage_jax.batch import Scores
from sage_jax.config import Config, MeshConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record
from sage_jax.evaluation.detection import cells_of_regions, detection
from sage_jax.journal.run_log import RunLog
from sage_jax.metrics.detection import detection_metrics
from sage_jax.process.stop_request import StopRequest, Watch
from sage_jax.sharding import make_mesh
from tests.support.stream_records import MODEL, make_record


class Rigged:
    """What detection asks of an evaluator, with scores and similarities that are given."""

    def __init__(self, scores: list[float], similarity: np.ndarray) -> None:
        self.config = dataclasses.replace(Config(), model=MODEL)
        self.chat = SimpleNamespace(language="en")
        self.asked: list[Record] = []
        self._scores, self._similarity = scores, similarity

    def rows(self, num_records: int) -> int:
        return min(2, num_records)

    def scores(self, records: Any, *, with_reference: bool, advance: Any) -> Any:
        for index in range(len(records)):
            self.asked.append(records[index])
            advance(index // 2 + 1)
            yield records[index], Scores(np.array([self._scores[index]]), self._similarity[index])


def records() -> list[Record]:
    """Six images, of two records each; the odd ones defective in their upper left quarter, one of unknown state."""
    rng, found = np.random.default_rng(0), []
    for index in range(7):
        good = rng.integers(60, 90, (32, 32, 3), np.uint8)
        test, mask = good.copy(), np.zeros((32, 32), np.bool_)
        if index % 2:
            test[:16, :16], mask[:16, :16] = 200, True
        record = dataclasses.replace(
            make_record(index, rng),
            test_image=encode_png(test),
            reference_image=encode_png(good),
            anomalous=None if index == 6 else bool(index % 2),
            mask=encode_png(mask) if index % 2 else None,
        )
        found += [record, dataclasses.replace(record, record_id=f"again-{index}")]
    return found


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    with RunLog(tmp_path, "evaluate") as log, StopRequest(log.line, make_mesh(MeshConfig())) as stop:
        yield Watch("scored", log.progress, stop)


def rigged() -> Any:
    similarity = np.ones((6, 4), np.float32)
    similarity[1::2, 0] = 0.2  # the first of four tokens: the upper left quarter
    return Rigged([0.1, 0.9, 0.2, 0.4, 0.3, 0.8], similarity)


def test_each_image_of_known_state_is_asked_the_inspection_question_once(watch: Watch) -> None:
    evaluator = rigged()
    detection("sfe", evaluator, records(), watch, with_reference=True)
    assert [record.image_id for record in evaluator.asked] == [f"i{index}" for index in range(6)]
    assert all(len(record.questions) == 1 for record in evaluator.asked)


def test_metrics_are_those_of_the_scores_and_of_what_needs_no_model(watch: Watch) -> None:
    evaluator = rigged()
    found = detection("sfe", evaluator, records(), watch, with_reference=True).metrics
    labels = [False, True] * 3
    alone = detection_metrics([0.1, 0.9, 0.2, 0.4, 0.3, 0.8], labels, list("abcdef"), samples=50, seed=0)
    assert found["auroc"].value == alone["auroc"].value == 1.0
    assert found["map_auroc"].value == 1.0 and found["difference_auroc"].value == 1.0
    assert found["gain_over_map"].value == 0.0
    assert found["pixel_auroc"].value is not None and found["pixel_auroc"].value > 0.9
    assert found["difference_pixel_auroc"].value is not None and found["difference_pixel_auroc"].value > 0.99
    bare = detection("sfe", rigged(), records(), watch, with_reference=False)
    assert bare.metrics.keys() == alone.keys() and bare.cells == {}


def test_regions_of_the_map_lie_in_the_cells_of_their_middles(watch: Watch) -> None:
    found = detection("sfe", rigged(), records(), watch, with_reference=True).cells
    marked = {image for image, cells in found.items() if cells}
    assert found.keys() == {f"i{index}" for index in range(6)} and marked == {"i1", "i3", "i5"}
    assert all(found[image] == {"upper left"} for image in marked)
    values = np.zeros((30, 60))
    assert cells_of_regions(values) == frozenset()
    values[2:8, 25:35], values[12:18, 50:60], values[25:30, 0:3] = 0.9, 0.5, 0.49
    assert cells_of_regions(values) == {"top", "right"}
    assert cells_of_regions(values, level=0.4) == {"top", "right", "lower left"}


def test_without_known_states_nothing_is_measured(watch: Watch) -> None:
    unknown = [dataclasses.replace(record, anomalous=None) for record in records()]
    evaluator: Any = Rigged([], np.zeros((0, 4)))
    found = detection("sfe", evaluator, unknown, watch, with_reference=False).metrics
    assert all(metric.value is None for metric in found.values())


def test_several_categories_are_measured_one_by_one(watch: Watch) -> None:
    sorted_out = [
        dataclasses.replace(record, category="screw" if int(record.image_id[1:]) < 4 else "nut") for record in records()
    ]
    found = detection("sfe", rigged(), sorted_out, watch, with_reference=True)
    assert list(found.by_category) == ["nut", "screw"] and all(len(each) == 5 for each in found.by_category.values())
    screws = detection("sfe", rigged(), sorted_out[:8], watch, with_reference=True)
    assert screws.by_category == {} and screws.means == {}
    for name, metric in found.by_category["screw"].items():
        assert metric.value == screws.metrics[name].value
    nuts = found.by_category["nut"]["aupro"].value
    assert nuts is not None and found.by_category["screw"]["aupro"].value is not None
    assert found.means["aupro"] == pytest.approx((nuts + found.by_category["screw"]["aupro"].value) / 2)
