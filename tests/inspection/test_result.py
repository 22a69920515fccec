"""An inspection's finding, as it prints and as it is saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import Config
from sage_jax.data.images import encode_png
from sage_jax.errors import UserError
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.inspection.result import Inspection, make_inspection, unreadable
from tests.support.stream_records import MODEL, make_record

CONFIG = dataclasses.replace(Config(), model=MODEL)
PIXELS = np.full((32, 32, 3), 90, np.uint8)
RECORD = dataclasses.replace(make_record(0, np.random.default_rng(0)), test_image=encode_png(PIXELS))


def found(score: float, *, threshold: float = 0.5, **changes: Any) -> Inspection:
    config = dataclasses.replace(CONFIG, inspect=dataclasses.replace(CONFIG.inspect, threshold=threshold))
    record = dataclasses.replace(RECORD, **changes)
    answers = ImageAnswers(
        record, "Yes. A dent.", score, np.array([1.0, 1.0, 0.2, 1.0]), (("Where?", "Below."),), (4, 3)
    )
    return make_inspection(answers, config)


@pytest.mark.parametrize(
    ("score", "threshold", "verdict"), [(0.5, 0.5, "defective"), (0.49, 0.5, "good"), (0.01, 0.005, "defective")]
)
def test_the_verdict_is_that_of_score_and_threshold(score: float, threshold: float, verdict: str) -> None:
    assert found(score, threshold=threshold).verdict == verdict


def test_the_map_lies_over_the_image_and_boxes_are_its_peaks() -> None:
    one = found(0.9)
    assert one.anomaly_map is not None and one.anomaly_map.shape == (32, 32)
    assert np.unravel_index(one.anomaly_map.argmax(), (32, 32))[0] >= 16
    (box,) = one.boxes
    assert box[1] >= 14 and box[3] == 32 and box[4] == pytest.approx(one.anomaly_map.max())
    alone = found(0.9, reference_image=None)
    assert alone.anomaly_map is None and alone.boxes == () and alone.reference == "" and alone.num_references == 0


def test_it_prints_what_was_found() -> None:
    lines = str(found(0.9)).splitlines()
    assert lines[:3] == ["0.png: defective, score 0.900", "  Yes. A dent.", "  Where? Below."]
    assert lines[3] == "  compared with 0_good.png"
    assert lines[4].startswith("  map peak 0.80 in x ")
    assert repr(found(0.9)) == "Inspection(image='0.png', verdict='defective', score=0.9000, reason='Yes. A dent.')"
    doubtful = dataclasses.replace(found(0.9), verdict="unsure", doubt="it is dark", num_references=3)
    assert "  unsure: it is dark" in str(doubtful) and "and 2 more" in str(doubtful)
    assert str(unreadable("x.png", "", "cut off")) == "x.png: unreadable\n  cut off"


def test_the_overlay_is_a_picture_and_without_a_map_there_is_none(tmp_path: Path) -> None:
    path = found(0.9).save_overlay(tmp_path / "new" / "overlay.png")
    with Image.open(path) as image:
        assert min(image.size) >= 32 and image.format == "PNG"
    alone, broken = found(0.9, reference_image=None), unreadable("x.png", "", "cut")
    for one, why in ((alone, "without a reference"), (broken, "cut")):
        with pytest.raises(UserError, match=why):
            one.save_overlay(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
