"""The training step and loop, on a small module with a real loss, real checkpoints and real signals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, MeshConfig
from sage_jax.journal.run_log import TrainingDiverged
from sage_jax.parameters import split
from sage_jax.sharding import make_mesh
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import CheckpointError, load_final
from tests.support.tiny_training import (
    TRAIN,
    ScorePredictor,
    SeededLoader,
    SignallingLoader,
    assert_same,
    rows_of,
    run_stage,
)


def test_the_wait_for_a_slow_stream_is_told_in_every_row_and_of_the_stage(tmp_path: Path):
    result = run_stage(tmp_path, loader=SeededLoader(seconds=0.1))
    assert result.counts["compilations"] == 1  # all batches have one shape
    assert 0 < result.counts["compile_seconds"] < 60
    assert result.shares["input_wait"] > 0.5  # a step takes a few milliseconds
    assert result.shares["padding"] == 1.0  # the trees of these batches have no token
    rows = rows_of(tmp_path)
    assert all(0.0 <= row["input_wait"] <= 1.0 and row["padding"] == 1.0 for row in rows)
    assert np.mean([row["input_wait"] for row in rows[2:]]) > 0.5


def test_skipped_steps_are_logged_with_their_records_and_training_goes_on(tmp_path: Path):
    result = run_stage(tmp_path, loader=SeededLoader(broken=(3,)))
    assert all(np.isfinite(leaf).all() for leaf in result.params.values())
    (line,) = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "skipped" in line]
    assert "step 4" in line
    assert [name for name in line.split("records ")[1].split(", ")] == [f"board-{row}" for row in range(48, 64)]
    assert [row["skipped"] for row in rows_of(tmp_path)] == [0.0] * 3 + [1.0] + [0.0] * 8
    assert rows_of(tmp_path)[3]["loss"] is None


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path: Path):
    # nine, a finite one, then ten
    loader = SeededLoader(broken=(*range(9), *range(10, 20)))
    with pytest.raises(TrainingDiverged) as stopped:
        run_stage(tmp_path, dataclasses.replace(TRAIN, steps=30), loader)
    message = str(stopped.value)
    assert "board-160" in message and "board-319" in message
    assert "board-0," not in message and "board-159" not in message


def test_skips_in_a_row_are_counted_across_a_resume(tmp_path: Path):
    train = dataclasses.replace(TRAIN, steps=30)
    broken = tuple(range(2, 30))
    with pytest.raises(TrainingDiverged) as whole:
        run_stage(tmp_path / "whole", train, SeededLoader(broken=broken))
    assert run_stage(tmp_path / "cut", train, SignallingLoader(at=6, broken=broken)).interrupted
    with pytest.raises(TrainingDiverged) as cut:
        run_stage(tmp_path / "cut", train, SeededLoader(broken=broken))
    assert str(whole.value).splitlines()[-1].strip().startswith("step 12: ")
    assert str(cut.value).splitlines()[-1] == str(whole.value).splitlines()[-1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_mesh_trains_the_same(tmp_path: Path, optimizer: Literal["adamw", "muon"]):
    train = dataclasses.replace(TRAIN, accumulate=2, optimizer=optimizer)
    plain = run_stage(tmp_path / "one", train)
    cut = run_stage(tmp_path / "cut", train, mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert not cut.params["adapter/linear_1/kernel"].is_fully_replicated
    for path in plain.params:
        np.testing.assert_allclose(np.asarray(cut.params[path]), np.asarray(plain.params[path]), atol=1e-5)


def test_a_stage_ends_with_all_parameters_and_leaves_the_model_it_was_given(tmp_path: Path):
    model = ScorePredictor(nnx.Rngs(0))
    _, before = split(ScorePredictor(nnx.Rngs(0)))
    result = run_stage(tmp_path, model=model)
    assert_same(split(model)[1], before)
    assert_same(load_final(tmp_path / "sfe"), result.params)
    assert_same({"k": result.params["vit/patch_embed/kernel"]}, {"k": before["vit/patch_embed/kernel"]})
    assert not np.allclose(result.params["adapter/linear_1/kernel"], before["adapter/linear_1/kernel"])


def test_a_finished_stage_trains_on_when_it_gets_more_steps_and_the_log_says_what_changed(tmp_path: Path):
    run_stage(tmp_path, config=json.dumps({"sfe": {"steps": 12, "batch_size": 16}}))
    result = run_stage(
        tmp_path, dataclasses.replace(TRAIN, steps=14), config=json.dumps({"sfe": {"steps": 14, "batch_size": 16}})
    )
    assert result.steps == 14
    log = (tmp_path / "log.txt").read_text()
    assert "sfe.steps: 12 -> 14" in log and "batch_size" not in log


def test_a_resume_that_trains_other_parameters_is_refused_by_name(tmp_path: Path):
    run_stage(tmp_path)
    with pytest.raises(CheckpointError, match="adapter/linear_2/bias"):
        run_stage(tmp_path, dataclasses.replace(TRAIN, freeze=("vit/", "adapter/linear_2/bias")))


def test_the_best_scored_checkpoint_is_kept(tmp_path: Path):
    scores = iter([1.0, 3.0, 2.0])
    train = dataclasses.replace(TRAIN, steps=6, eval_every=2, keep_last=1)
    run_stage(tmp_path, train, evaluate=lambda params: {"score": next(scores), "arrays": float(len(params))})
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (4, 6)
    evaluated = [row for row in rows_of(tmp_path) if "eval/score" in row]
    assert [(row["step"], row["eval/score"], row["eval/arrays"]) for row in evaluated] == [
        (2, 1.0, 5.0),
        (4, 3.0, 5.0),
        (6, 2.0, 5.0),
    ]


def test_attached_values_reach_the_loss(tmp_path: Path):
    def attach(batch: TreeBatch) -> TreeBatch:
        return dataclasses.replace(batch, scores=batch.scores + np.float32(100.0))

    run_stage(tmp_path, dataclasses.replace(TRAIN, steps=2), attach=attach)
    assert rows_of(tmp_path)[0]["loss"] > 90.0**2


def test_a_batch_that_the_mesh_cannot_share_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="12 rows .* 8 devices .* multiple of 8"):
        run_stage(tmp_path, dataclasses.replace(TRAIN, batch_size=12), mesh=make_mesh(MeshConfig()))


def test_data_that_ends_early_says_so(tmp_path: Path):
    class Finite(SeededLoader):
        def __next__(self) -> TreeBatch:
            if self.position == 5:
                raise StopIteration
            return super().__next__()

    with pytest.raises(RuntimeError, match="ended 7 batches before the last step"):
        run_stage(tmp_path, loader=Finite())
