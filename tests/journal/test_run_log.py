"""The run's log: rows that resume without doubles, windows that weigh by count, progress that says how long."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.config import TrainConfig
from sage_jax.journal import run_log
from sage_jax.journal.run_log import RunLog, StepInput, StepLog


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step_log(run: RunLog, train: TrainConfig) -> StepLog:
    with run.progress(train.steps) as advance:
        return StepLog(run, train, lambda update: 0.5**update, lambda rows: [f"part-{row}" for row in rows], advance)


def metrics(loss: float, errors: float, count: float, skipped: int = 0, empty: int = 0) -> dict[str, Any]:
    pairs = {"loss": (loss, 1.0), "grad_norm": (1.0, 1.0), "error": (errors, count)}
    pairs |= {"skipped": (skipped, 1.0), "empty": (empty, 1.0)}
    return {name: (jnp.asarray(total), jnp.asarray(weight)) for name, (total, weight) in pairs.items()}


def test_resume_drops_this_stages_later_rows_and_no_others(tmp_path: Path):
    for stage in ("base", "sfe"):
        with RunLog(tmp_path, stage) as run:
            for step in range(1, 6):
                run.metrics(step, {"loss": float(step)})
    with RunLog(tmp_path, "sfe") as run:
        run.resume_from(3)
        run.metrics(4, {"loss": 40.0})
    rows = [(row["stage"], row["step"], row["loss"]) for row in rows_of(tmp_path)]
    assert rows == [("base", i, i) for i in range(1, 6)] + [("sfe", 1, 1), ("sfe", 2, 2), ("sfe", 3, 3), ("sfe", 4, 40)]


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as run:
        run.metrics(1, {"loss": 1.0})
        run.metrics_path.write_text(run.metrics_path.read_text() + '{"stage": "sfe", "st')
        run.resume_from(1)
        run.metrics(2, {"loss": 2.0})
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]


def test_damaged_rows_are_dropped_and_stop_nothing(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as log:
        for step in (1, 2):
            log.metrics(step, {"loss": 1.0})
    path, rng = tmp_path / "metrics.jsonl", random.Random(0)
    whole = path.read_bytes()
    for content in (
        b"null",
        b"[]",
        b"{}",
        b'{"stage": "sfe", "step": "x"}',
        b"[" * 100_000,
        *(whole for _ in range(200)),
    ):
        changed = bytearray(content + b"\n" if content is not whole else whole)
        changed[rng.randrange(len(changed))] ^= (1 << rng.randrange(8)) if content is whole else 0
        path.write_bytes(bytes(changed))
        with RunLog(tmp_path, "sfe") as log:
            log.resume_from(2)


def test_rows_are_json_for_any_reader_even_when_a_value_is_not_finite(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as run:
        run.metrics(1, {"loss": float("nan"), "norm": float("inf"), "kept": 2.5})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert rows_of(tmp_path) == [{"stage": "sfe", "step": 1, "loss": None, "norm": None, "kept": 2.5}]


def test_tensorboard_gets_each_scalar_under_the_stage(tmp_path: Path):
    with RunLog(tmp_path, "edpo") as run:
        run.metrics(7, {"reward_margin": 0.25})
    (events,) = (tmp_path / "tensorboard" / "edpo").iterdir()
    content = events.read_bytes()
    assert b"reward_margin" in content and np.float32(0.25).tobytes() in content


def test_lines_reach_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with RunLog(tmp_path, "sfe") as run:
        run.line("resumed from [step] 3")
    assert "sfe: resumed from [step] 3" in capsys.readouterr().err
    assert (tmp_path / "log.txt").read_text().endswith(" sfe: resumed from [step] 3\n")


def test_progress_off_a_terminal_is_a_first_and_a_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with RunLog(tmp_path, "sfe") as run, run.progress(500, done=100, unit="image") as advance:
        for done in range(101, 501):
            advance(done, {"loss": 1.25})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("sfe 101/500  ") and lines[1].startswith("sfe 500/500  ")
    assert "image/s" in lines[1] and "0:00 left" in lines[1] and "loss 1.25" in lines[1]


def test_a_window_weighs_steps_by_their_counts(tmp_path: Path):
    rng = np.random.default_rng(0)
    errors, counts, losses = rng.random(6), rng.integers(1, 30, 6), rng.random(6)
    with RunLog(tmp_path, "sfe") as run:
        log = step_log(run, TrainConfig(steps=6, log_every=4, warmup_steps=0))
        for step in range(6):
            log.follow(step + 1, metrics(losses[step], errors[step], counts[step]), StepInput(np.arange(2)))
        log.catch_up()
    first, last = rows_of(tmp_path)
    assert (first["step"], last["step"]) == (4, 6)
    assert first["error"] == pytest.approx(errors[:4].sum() / counts[:4].sum(), rel=1e-5)
    assert last["error"] == pytest.approx(errors[4:].sum() / counts[4:].sum(), rel=1e-5)
    assert first["loss"] == pytest.approx(losses[:4].mean(), rel=1e-5)


def test_skipped_steps_leave_means_and_learning_rate_untouched(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as run:
        log = step_log(run, TrainConfig(steps=8, log_every=4, warmup_steps=0))
        log.resume(0, num_skipped=0, num_skipped_in_row=0)
        nan = float("nan")
        for step, row in enumerate(
            [metrics(2.0, 1.0, 2.0), metrics(nan, nan, 2.0, 1), metrics(4.0, 0.0, 0.0)], start=1
        ):
            log.follow(step, row, StepInput(np.asarray([5, -1])))
        log.follow(4, metrics(6.0, 3.0, 2.0), StepInput(np.asarray([6, 7])))
        log.catch_up()
    (row,) = rows_of(tmp_path)
    assert (row["loss"], row["error"], row["skipped"]) == (4.0, 1.0, 1.0)
    assert row["learning_rate"] == 0.25  # the third update: two were done before it
    assert "records part-5\n" in (tmp_path / "log.txt").read_text()


def test_the_step_dispatched_last_is_not_waited_for(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as run:
        log = step_log(run, TrainConfig(steps=3, log_every=1, warmup_steps=0))
        log.follow(1, metrics(1.0, 1.0, 1.0), StepInput(np.arange(1)))
        assert not (tmp_path / "metrics.jsonl").exists()
        log.follow(2, metrics(2.0, 1.0, 1.0), StepInput(np.arange(1)))
        assert [row["step"] for row in rows_of(tmp_path)] == [1]


def test_an_evaluation_gives_its_score_and_is_logged(tmp_path: Path):
    with RunLog(tmp_path, "sfe") as run:
        assert step_log(run, TrainConfig()).evaluation(20, {"score": 0.9, "auroc": 0.95}) == 0.9
    assert rows_of(tmp_path) == [{"stage": "sfe", "step": 20, "eval/score": 0.9, "eval/auroc": 0.95}]


def test_waits_are_shares_of_the_wall_time_and_padding_of_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now)
    with RunLog(tmp_path, "sfe") as run:
        log = step_log(run, TrainConfig(steps=4, log_every=2, warmup_steps=0))
        assert log.is_idle() and log.shares() == {}
        # The first step takes long, for it is compiled; from then on a step takes 4 s.
        for step, (seconds, waited, tokens) in enumerate([(50, 2, 60), (4, 1, 80), (4, 0, 70), (4, 3, 90)], start=1):
            log.follow(step, metrics(1.0, 1.0, 1.0), StepInput(np.arange(1), tokens, 100, float(waited)))
            now += seconds
        log.catch_up()
    first, last = rows_of(tmp_path)
    assert (first["padding"], last["padding"]) == pytest.approx((0.3, 0.2))
    # Rows are written a step late, and so are the waits: those of steps 1 to 3 in 54 s, of step 4 in 8 s.
    assert (first["input_wait"], last["input_wait"]) == pytest.approx((3 / 54, 3 / 8))
    # Of the whole stage, from when the first step was read: 12 s, of which 3 s were waited.
    assert log.shares() == pytest.approx({"input_wait": 3 / 12, "padding": 0.25})


def test_a_step_with_nothing_to_learn_is_told_and_stops_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, "edpo") as run:
        log = step_log(run, TrainConfig(steps=12, warmup_steps=1, log_every=12))
        for step in range(1, 13):
            log.follow(step, metrics(0.0, 0.0, 0.0, empty=1), StepInput(np.arange(2)))
        log.catch_up()
    told = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "no update" in line]
    assert len(told) == 12 and "step 1: its batch has nothing to learn, such as answers of equal scores" in told[0]
    (row,) = rows_of(tmp_path)
    assert row["skipped"] == 0.0 and "empty" not in row
