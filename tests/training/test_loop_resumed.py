"""A stage that is killed or stopped and started again ends bitwise as one that never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.sharding import make_mesh
from sage_jax.training.finished import is_finished, load_final
from sage_jax.training.loop import FitResult
from tests.support.forked import ROOT, Forked
from tests.support.tiny_training import (
    LONG,
    TRAIN,
    SeededLoader,
    ShareLoader,
    SignallingLoader,
    assert_same,
    first_devices,
    rows_of,
    run_stage,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run_stage(tmp_path_factory.mktemp("whole"), LONG)


def started_child(folder: Path, rows: int) -> Forked:
    """A process that trains the same stage, once it has logged so many steps."""
    child = Forked([__file__, str(folder)], environment=os.environ, cwd=ROOT)
    log = folder / "metrics.jsonl"
    while child.poll() is None and (not log.exists() or log.read_text().count("\n") < rows):
        time.sleep(0.01)
    assert child.poll() is None, child.communicate()
    return child


def test_killed_at_a_random_moment_and_restarted_ends_bitwise_equal(tmp_path: Path, uninterrupted: FitResult):
    moment = np.random.default_rng().uniform(0.0, 0.4)
    child = started_child(tmp_path, rows=4)
    time.sleep(moment)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    resumed = run_stage(tmp_path, LONG)
    assert not resumed.interrupted
    assert "resumed from step" in (tmp_path / "log.txt").read_text(), f"killed {moment} s after step 4"
    assert_same(resumed.params, uninterrupted.params)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, LONG.steps + 1))


def test_sigterm_saves_exits_0_and_resumes_bitwise(tmp_path: Path, uninterrupted: FitResult):
    child = started_child(tmp_path, rows=2)
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    stopped = json.loads(out)
    assert stopped["interrupted"] and 2 <= stopped["steps"] < LONG.steps
    assert not is_finished(tmp_path / "sfe")
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, stopped["steps"] + 1))
    resumed = run_stage(tmp_path, LONG)
    assert f"resumed from step {stopped['steps']}" in (tmp_path / "log.txt").read_text()
    assert_same(resumed.params, uninterrupted.params)


def test_muon_goes_on_bitwise_from_a_checkpoint(tmp_path: Path):
    train = dataclasses.replace(LONG, optimizer="muon")
    whole = run_stage(tmp_path / "whole", train)
    assert run_stage(tmp_path / "cut", train, SignallingLoader(at=6)).interrupted
    assert_same(run_stage(tmp_path / "cut", train).params, whole.params)
    assert "resumed from step 6" in (tmp_path / "cut" / "log.txt").read_text()


def test_what_is_computed_beside_the_steps_is_begun_a_batch_early_and_resumes_bitwise(
    tmp_path: Path, uninterrupted: FitResult
):
    events: list[str] = []

    def encode(batch: TreeBatch) -> Callable[[], TreeBatch]:
        number = int(batch.record_index[0]) // LONG.batch_size
        events.append(f"begun {number}")

        def given() -> TreeBatch:
            events.append(f"given {number}")
            return batch

        return given

    stopped = run_stage(tmp_path, LONG, SignallingLoader(at=6), encode=encode)
    assert events[:5] == ["begun 0", "begun 1", "given 0", "begun 2", "given 1"]
    assert stopped.interrupted and stopped.steps < 6  # the loader was ahead
    events.clear()
    resumed = run_stage(tmp_path, LONG, encode=encode)
    assert_same(resumed.params, uninterrupted.params)
    expected = range(stopped.steps, LONG.steps)
    assert [event for event in events if "begun" in event] == [f"begun {number}" for number in expected]  # none beyond


def test_two_processes_train_as_one_and_stop_together(tmp_path: Path):
    one = run_stage(tmp_path / "one", loader=ShareLoader(0, 1, stop_at=-1), mesh=first_devices(2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        Forked(
            [__file__, str(tmp_path / "two"), str(process), str(port)],
            environment=os.environ | {"XLA_FLAGS": ""},
            cwd=ROOT,
        )
        for process in range(2)
    ]
    ends = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    first_calls, second_calls = zip(*(map(json.loads, out.splitlines()[-2:]) for out, _ in ends), strict=True)
    assert first_calls[0] == first_calls[1] and first_calls[0]["interrupted"]
    assert 5 <= first_calls[0]["steps"] < TRAIN.steps
    assert second_calls == ({"interrupted": False, "steps": TRAIN.steps},) * 2
    two = load_final(tmp_path / "two" / "sfe")
    for path, leaf in one.params.items():
        np.testing.assert_allclose(np.asarray(two[path]), np.asarray(leaf), atol=1e-6, err_msg=path)
    assert [row["step"] for row in rows_of(tmp_path / "two")] == list(range(1, TRAIN.steps + 1))
    # process 0 names the rows of both
    assert "board-32, " in (tmp_path / "two" / "log.txt").read_text()
    assert "board-47\n" in (tmp_path / "two" / "log.txt").read_text()


def stage_to_stop(folder: Path) -> None:
    """Trains slowly, so that there is a moment to stop it in."""
    report(run_stage(folder, LONG, SeededLoader(seconds=0.05)))


def process_of_two(folder: Path, process: int, port: int) -> None:
    """Trains until process 1 is asked to stop, then to the end."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    for stop_at in (5, -1):
        report(run_stage(folder, loader=ShareLoader(process, 2, stop_at), mesh=make_mesh(MeshConfig(data=1, fsdp=2))))


def report(result: FitResult) -> None:
    print(json.dumps({"interrupted": result.interrupted, "steps": result.steps}))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        stage_to_stop(Path(sys.argv[1]))
    else:
        process_of_two(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
