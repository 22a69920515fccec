"""The whole program as two processes: one config, an end when one is killed, and the same model with another number."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from sage_jax.training.finished import load_final
from tests.support.forked import Forked
from tests.support.tiny_run import fork_main, run_main

STAGES = ("--config.stages=prepare,base", "--config.base.steps=100", "--config.base.checkpoint_every=4")
SECONDS = 400
"""For a start on a busy machine."""


def start_two(folder: Path, *differing: str) -> list[Forked]:
    """Two processes as SLURM starts them, whose environment JAX reads.

    Args:
      differing: Fields of the second one alone.
    """
    job = str(random.SystemRandom().randrange(4096))  # the port is made from it

    def start(process: int, *fields: str) -> Forked:
        environment = {
            "SAGE_JAX_DISTRIBUTED": "1",
            "SLURM_JOB_ID": job,
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(process),
            "SLURM_LOCALID": str(process),
        }
        said = folder / f"said_{process}"
        return fork_main(folder, *STAGES, *fields, environment=environment, stderr=said.open("w"))

    return [start(0), start(1, *differing)]


def said(folder: Path) -> list[str]:
    return [(folder / f"said_{process}").read_text() for process in range(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return run_main(tmp_path_factory.mktemp("one"), *STAGES).folder


def test_processes_with_different_configs_end_before_they_work(tmp_path: Path) -> None:
    both = start_two(tmp_path, "--config.base.steps=5", "--config.seed=3")
    try:
        assert [process.wait(SECONDS) for process in both] == [2, 2], said(tmp_path)
    finally:
        for process in both:
            process.kill()
    for text in said(tmp_path):
        assert "Traceback" not in text and "process 1 of 2 has another config than process 0" in text
        assert "base.steps: 100 -> 5" in text and "seed: 0 -> 3" in text and "the same command" in text
    assert not (tmp_path / "run" / "config.json").exists()


def test_when_one_of_two_is_killed_the_other_ends_and_one_alone_finishes_the_model(tmp_path: Path, one: Path) -> None:
    both = start_two(tmp_path)
    checkpoints, deadline = tmp_path / "run" / "stages" / "base" / "checkpoints", time.monotonic() + SECONDS
    try:
        while not (checkpoints / "4").is_dir() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in both), said(tmp_path)
            time.sleep(0.02)
        both[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert both[0].wait(SECONDS) == 2, said(tmp_path)
    finally:
        for process in both:
            process.kill()
    text = said(tmp_path)[0]
    assert time.monotonic() - killed < 60
    assert "Traceback" not in text and text.count("error: ") == 1, text
    assert "another process has ended or cannot be reached" in text and "the same command goes on" in text
    assert not (tmp_path / "run" / "stages" / "base" / "DONE.json").exists()

    resumed = run_main(tmp_path, *STAGES)
    assert "resumed" in resumed.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]["base"]
    expected, found = (load_final(folder / "run" / "stages" / "base") for folder in (one, tmp_path))
    assert expected.keys() == found.keys()
    for path, leaf in expected.items():  # sums over two processes are rounded otherwise
        difference = np.abs(np.asarray(found[path]) - np.asarray(leaf))
        assert difference.max() < 1e-3 and difference.mean() < 1e-4, (path, difference.max(), difference.mean())
