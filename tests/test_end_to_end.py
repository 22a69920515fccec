"""Stopped and started again, a run ends as one that was never stopped, bit for bit."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
from tiny_run import CONFIG, TinyRun, read_jsonl, run_main, start_main

from sage_jax.checkpoint import load_final
from sage_jax.command_line import read_config


def test_sigterm_saves_and_the_printed_command_ends_bitwise_as_without_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    for name in ("cache", "compiled"):
        shutil.copytree(tiny_run.folder / name, tmp_path / name)
    only_base = "--config.stages=base"
    process = start_main(tmp_path, only_base)
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
