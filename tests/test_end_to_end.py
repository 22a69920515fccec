"""Stopped and started again, a run ends as one that was never stopped: bit for bit, where steps compute all of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sage_jax.config.command_line import read_config
from sage_jax.training.finished import load_final
from tests.support.tiny_run import CONFIG, TinyRun, fork_main, read_jsonl, run_main


def test_sigterm_saves_and_the_printed_command_ends_bitwise_as_without_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.folder / "cache", tmp_path / "cache")
    only_base = "--config.stages=base"
    process = fork_main(tmp_path, only_base)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "SIGTERM: stopping after this step, with a checkpoint" in said
    total = read_config(["--config", str(CONFIG)]).base.steps
    stopped = len(read_jsonl(metrics))
    assert stopped < total
    assert f"stage base stopped after {stopped} of {total} steps" in said
    (command,) = (line.removeprefix("To go on: ") for line in said.splitlines() if line.startswith("To go on: "))
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "sage_jax.main"]
    assert f"--config.run_dir={tmp_path / 'run'}" in words and only_base in words

    resumed = run_main(tmp_path, *words[words.index(only_base) :], "--config.base.keep_last=2")
    assert f"resumed from step {stopped}" in resumed.stderr
    assert "the config has changed since that checkpoint" in resumed.stderr
    assert "base.keep_last: 1 -> 2" in resumed.stderr
    ended, whole = (load_final(folder / "run" / "stages" / "base") for folder in (tmp_path, tiny_run.folder))
    assert ended.keys() == whole.keys()
    for path in whole:
        np.testing.assert_array_equal(np.asarray(ended[path]), np.asarray(whole[path]), err_msg=path)
    rows, uninterrupted = (
        [(row["step"], row["loss"]) for row in read_jsonl(folder / "run" / "metrics.jsonl") if row["stage"] == "base"]
        for folder in (tmp_path, tiny_run.folder)
    )
    assert rows == uninterrupted
    cost = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]["base"]["seconds"]
    assert cost > 0


def test_killed_twice_stage_2_ends_bitwise_as_without_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    # The tiny run itself is no measure: its reference table has batches of its `dpo` stage.
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    for folder in (killed, unbroken):
        for name in ("cache", "run/stages/sfe", "run/tokenizer"):
            shutil.copytree(tiny_run.folder / name, folder / name)
    # Batches of the evaluation cut the reference table; a worker process reads the records.
    only = ("--config.stages=edpo", "--config.edpo.checkpoint_every=1", "--config.data.num_workers=1")

    def killed_when(reached: Callable[[], bool]) -> None:
        process = fork_main(killed, *only)
        deadline = time.monotonic() + 300
        while not reached():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate(timeout=60)  # to the end of what it and its worker print: no worker outlives it
        assert process.returncode == -signal.SIGKILL

    run = killed / "run"
    killed_when(lambda: any((run / "reference_logps").glob("*.partial")))
    killed_when(lambda: any(path.name.isdigit() for path in (run / "stages" / "edpo" / "checkpoints").glob("*")))
    ended = run_main(killed, *only)
    assert "edpo: resumed from step " in ended.stderr
    run_main(unbroken, *only)
    resumed, whole = (load_final(folder / "run" / "stages" / "edpo") for folder in (killed, unbroken))
    assert resumed.keys() == whole.keys()
    for path in whole:
        np.testing.assert_array_equal(np.asarray(resumed[path]), np.asarray(whole[path]), err_msg=path)


def test_validation_is_scored_at_its_steps_and_the_best_checkpoint_is_kept(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.folder / "cache", tmp_path / "cache")
    for name in ("stages/sfe", "tokenizer"):
        shutil.copytree(tiny_run.run_dir / name, tmp_path / "run" / name)
    ended = run_main(
        tmp_path, "--config.stages=edpo", "--config.edpo.eval_every=2", "--config.data.validation_fraction=0.3"
    )
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "eval/loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        parts = [0.2 * row["eval/loss_zero_shot"], 0.8 * row["eval/loss_one_shot"]]
        np.testing.assert_allclose(row["eval/loss"], sum(parts), rtol=1e-6)
        assert row["eval/score"] == -row["eval/loss"]
    best = min(rows, key=lambda row: row["eval/loss"])["step"]
    assert f"lowest validation loss at step {best}; its checkpoint is kept" in ended.stderr
    kept = {path.name for path in (tmp_path / "run" / "stages" / "edpo" / "checkpoints").glob("[0-9]*")}
    assert kept == {str(best), "4"}


def test_vit_features_kept_in_memory_train_as_those_of_the_steps_after_a_kill_too(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    for name in ("cache", "run/stages/sfe", "run/tokenizer"):
        shutil.copytree(tiny_run.folder / name, tmp_path / name)
    only = ("--config.stages=edpo", "--config.edpo.checkpoint_every=1", "--config.data.vit_features=memory")
    process = fork_main(tmp_path, *only)
    checkpoints = tmp_path / "run" / "stages" / "edpo" / "checkpoints"
    deadline = time.monotonic() + 300
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    ended = run_main(tmp_path, *only)
    assert "edpo: resumed from step " in ended.stderr
    assert re.search(r"edpo: ViT features of \d+ images computed", ended.stderr)
    kept, whole = (load_final(folder / "run" / "stages" / "edpo") for folder in (tmp_path, tiny_run.folder))
    assert kept.keys() == whole.keys()
    for path in whole:
        np.testing.assert_allclose(np.asarray(kept[path]), np.asarray(whole[path]), atol=1e-4, err_msg=path)
