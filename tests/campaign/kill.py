"""Whole runs that are killed at random moments and started again: in the end, the bytes of a run that nobody killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.campaign.report import Report
from tests.support.tiny_run import start_main

STAGES: Final = ("base", "sfe", "edpo")
FIELDS: Final = (
    f"--config.stages=prepare,{','.join(STAGES)},evaluate,inspect",
    "--config.evaluate.stages=('edpo',)",
    "--config.sfe.checkpoint_every=4",
    "--config.edpo.checkpoint_every=1",
    "--config.evaluate.batch_size=2",
    "--config.data.validation_fraction=0.2",
    "--config.sfe.eval_every=5",
    "--config.data.vit_features=disk",
)
_MOST_KILLS: Final = 4
_LONGEST: Final = 3600
"""Seconds that a run may take on a busy machine."""


def kill_runs(folder: Path, number: int, seed: int, *, say: Callable[[str], None]) -> Report:
    """Kills runs at moments drawn over their whole length, start-up included, and compares what they leave."""
    report, rng = Report(), random.Random(seed)
    whole = folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    if _until_done(whole, [], rng)[0]:
        report.add("kill", "untold", "the run that nobody kills fails")
        return report
    seconds, expected = time.monotonic() - started, left(whole / "run")
    say(f"kill: {number} runs of {seconds:.0f} s, seed {seed}")
    for turn in range(number):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if turn % 4:  # every fourth begins with an empty compile cache
            shutil.copytree(whole / "compiled", work / "compiled")
        moments = [rng.uniform(0.0, seconds) for _ in range(rng.randint(1, _MOST_KILLS))]
        status, message = _until_done(work, moments, rng)
        if status:
            report.add("kill", "untold", f"run {turn}: {message[-300:]}")
            continue
        found = left(work / "run")
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        report.add("kill", "silent" if differing else "same", f"run {turn}, killed at {moments}: {differing[:4]}")
        say(f"  run {turn + 1} of {number}: {len(report.failures)} failed")
    return report


def left(run: Path, stages: Sequence[str] = STAGES) -> dict[str, object]:
    """What a run of training stages leaves that must not depend on when it was stopped."""
    files = [*sorted((run / "predictions").glob("*.jsonl")), run / "inspect" / "inspection.jsonl"]
    found: dict[str, object] = {path.name: path.read_bytes().replace(str(run).encode(), b"RUN") for path in files}
    for stage in stages:
        found[stage] = json.loads((run / "stages" / stage / "DONE.json").read_text())["weights"]
    found["metrics"] = json.loads((run / "summary.json").read_text())["metrics"][stages[-1]]["one_shot"]["mle"]
    return found


def _until_done(folder: Path, moments: list[float], rng: random.Random) -> tuple[int, str]:
    """Starts the run again until it ends by itself; exit status of that, and what it said."""
    for moment in moments:
        process = start_main(folder, *FIELDS)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            process.communicate(timeout=_LONGEST)
    process = start_main(folder, *FIELDS)
    try:
        _, said = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        return 1, f"no end after {_LONGEST} s: {process.communicate()[1]}"
    return process.returncode, said
