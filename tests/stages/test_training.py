"""Training stages of a run: what they move, log and compile, and what they are given."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from sage_jax.config import TRAINING_STAGES, from_config_dict
from sage_jax.config.command_line import read_config
from sage_jax.stages.run import Run
from sage_jax.stages.training import StageRecords
from tests.support.stream_records import make_record
from tests.support.tiny_run import CONFIG, TinyRun, read_jsonl


def test_metrics_have_a_row_for_every_step_and_the_preference_statistics(tiny_run: TinyRun) -> None:
    rows = read_jsonl(tiny_run.run_dir / "metrics.jsonl")
    config = read_config(["--config", str(CONFIG)])
    for stage in TRAINING_STAGES:
        steps = [row["step"] for row in rows if row["stage"] == stage]
        assert steps == list(range(1, config.training(stage).steps + 1))
        assert list((tiny_run.run_dir / "tensorboard" / stage).iterdir())
    wanted = {
        "reward_margin",
        "ranking_best_worst",
        "ranking_adjacent",
        "chosen_logps",
        "rejected_logps",
        "extreme_gap",
    }
    assert all(wanted <= row.keys() for row in rows if row["stage"] in ("dpo", "edpo"))
    losses = [row["loss"] for row in rows if row["stage"] == "base"]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_loss_plot_is_a_picture(tiny_run: TinyRun) -> None:
    with Image.open(tiny_run.run_dir / "loss.png") as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 100


def test_trained_parameters_move_and_frozen_ones_do_not(tiny_run: TinyRun) -> None:
    config = from_config_dict(json.loads((tiny_run.run_dir / "config.json").read_text()))
    run = Run(config)
    base, sfe = (run.weights.merged(stage, wanted_by="test") for stage in ("base", "sfe"))
    moved = {path for path in base if (base[path] != sfe[path]).any()}
    assert not [path for path in moved if path.startswith("vit/")]
    assert {path.split("/")[0] for path in moved} >= {"adapter", "decoder", "fusion"}


def test_the_log_tells_how_training_computes_and_what_it_compiled(tiny_run: TinyRun) -> None:
    told = (tiny_run.run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    for stage in TRAINING_STAGES:
        mine = [line for line in told if f" {stage}: " in line]
        assert sum("attention = tree, remat = none" in line for line in mine) == 1
        shapes = sum("compiled for" in line for line in mine)
        assert shapes == tiny_run.summary()["stages"][stage]["compilations"]


def test_records_are_those_that_train_and_those_that_validate() -> None:
    stored = [make_record(index, np.random.default_rng(index)) for index in range(5)]
    records = StageRecords(stored, [0, 3, 4], [1])
    assert [records.stored[index] for index in records.kept] == [stored[0], stored[3], stored[4]]
    assert [records.stored[index] for index in records.held_out] == [stored[1]]
