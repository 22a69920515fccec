"""The picture of a calibration is drawn for every sort of scores."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.journal.calibration_plot import plot_calibration
from sage_jax.metrics.calibration import calibrate


@pytest.mark.parametrize("number", [0, 30])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_picture_is_wider_with_defective_images_and_shows_both(number: int, spread: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = np.clip(rng.normal(0.1, spread, 40), 0.0, 0.9).tolist()
    defective = np.clip(rng.normal(0.8, spread, number), 0.0, 1.0).tolist()
    found = calibrate(good, defective, false_alarm_rate=0.1)
    plot_calibration(found, good, defective, tmp_path / "c.png")
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "c.png").read_bytes())).convert("RGB")).astype(int)
    height, width, _ = picture.shape
    assert (width > 2 * height) == bool(number)
    red = (picture[..., 0] - picture[..., 2] > 60).sum()
    blue = (picture[..., 2] - picture[..., 0] > 60).sum()
    assert blue > 500 and (red > 500) == bool(number)
