"""The loss plot."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.journal.plots import plot_losses, read_losses, running_mean


def write_rows(path: Path, rows: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def losses(stage: str, count: int) -> list[dict[str, object]]:
    return [{"stage": stage, "step": step, "loss": 3 / step, "grad_norm": 1.0} for step in range(1, count + 1)]


def test_plot_has_a_panel_for_each_stage(tmp_path: Path):
    one = write_rows(tmp_path / "one.jsonl", losses("sfe", 40))
    three = write_rows(tmp_path / "three.jsonl", losses("base", 40) + losses("sfe", 30) + losses("edpo", 1))
    widths = []
    for source in (one, three):
        plot_losses(source, source.with_suffix(".png"))
        picture = Image.open(io.BytesIO(source.with_suffix(".png").read_bytes())).convert("L")
        assert np.asarray(picture).min() < 100, "the plot is blank"
        widths.append(picture.width)
    assert widths[1] > 2 * widths[0]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".jsonl", ".png", ".png"]


def test_step_logged_twice_counts_as_logged_last_and_other_rows_are_passed_over(tmp_path: Path):
    rows = [*losses("sfe", 3), {"stage": "sfe", "step": 3, "accuracy": 0.5}, {"stage": "sfe", "step": 2, "loss": 9.0}]
    read = read_losses(write_rows(tmp_path / "m.jsonl", rows[::-1] + rows))
    assert list(read) == ["sfe"]
    assert list(read["sfe"].items()) == [(1, 3.0), (2, 9.0), (3, 1.0)]


def test_cut_off_last_line_is_passed_over_and_a_broken_one_before_it_named(tmp_path: Path):
    assert list(read_losses(write_rows(tmp_path / "a.jsonl", losses("sfe", 2), tail='{"stage": "s'))["sfe"]) == [1, 2]
    with pytest.raises(ValueError, match=r"b\.jsonl:3: not JSON"):
        read_losses(write_rows(tmp_path / "b.jsonl", losses("sfe", 2), tail='{"stage": "s\n{}\n'))


@pytest.mark.parametrize("values", [[math.nan], [1.0, math.inf, 0.5], [None, 1.0]])
def test_losses_that_are_not_finite_are_marked_and_do_not_stop_the_plot(tmp_path: Path, values: list[float | None]):
    rows: list[dict[str, object]] = [{"stage": "sfe", "step": step, "loss": loss} for step, loss in enumerate(values)]
    plot_losses(write_rows(tmp_path / "m.jsonl", rows), tmp_path / "loss.png")
    red, green, _ = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB")).astype(int).transpose(2, 0, 1)
    assert ((red > 150) & (green < 80)).any()


def test_log_without_losses_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="train a stage first"):
        plot_losses(write_rows(tmp_path / "m.jsonl", [{"stage": "evaluate"}]), tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_running_mean_keeps_straight_lines_and_equals_a_plain_mean_inside(count: int):
    line = np.linspace(2.0, 5.0, count)
    np.testing.assert_allclose(running_mean(line), line)
    values = np.random.default_rng(0).normal(size=100)
    assert running_mean(values)[50] == pytest.approx(values[45:56].mean())
