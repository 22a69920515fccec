"""Damaged files of a finished run and its cache: found and rebuilt, or told; what is read is what was written."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sage_jax.main import main
from sage_jax.training.finished import final_weights
from tests.campaign.mutate import damage
from tests.campaign.report import Report
from tests.support.tiny_run import CONFIG, run_main

_HOW: Final = ("truncated", "emptied", "deleted", "flipped")
_CHAIN: Final = ("base", "sfe", "edpo")
_NOT_READ: Final = ("tensorboard", "log.txt", "metrics.jsonl", "versions.json", "loss.png", "predictions", "inspect")
"""What a run writes for its user and reads no more, but for plots."""
_FIELDS: Final = (
    "--config.evaluate.stages=('edpo',)",
    "--config.evaluate.num_records=4",
    "--config.inspect.max_images=2",
)


def damage_run(folder: Path, cases: int, seed: int, *, say: Callable[[str], None]) -> Report:
    """Damages a file of a copy of a finished run, then does what a user would do next with it.

    Args:
      cases: Drawn among all files and kinds of damage; 0 = all of them.
    """
    whole, rng, report = folder / "whole", random.Random(seed), Report()
    whole.mkdir()
    run_main(whole, f"--config.stages=prepare,{','.join(_CHAIN)}", *_FIELDS)
    todo = [(path, how) for path in files_of(whole) for how in _HOW]
    todo = rng.sample(todo, cases) if cases else todo
    say(f"damage: {len(todo)} cases, seed {seed}")
    _, expected = outcome_of(whole, folder / "work", None, "", rng)
    for done, (path, how) in enumerate(todo, start=1):
        outcomes, found = outcome_of(whole, folder / "work", path, how, rng)
        for action, (outcome, about) in outcomes.items():
            if outcome == "done":
                outcome = "same" if found[action] == expected[action] else "silent"
            report.add(f"{how}, then {action}", outcome, f"{path}: {about}")
        if done % 20 == 0:
            say(f"  {done} of {len(todo)} done, {len(report.failures)} failed")
    return report


def files_of(whole: Path) -> list[Path]:
    """Files of a run and its data set that are read again, relative to their folder."""
    found = (path.relative_to(whole) for name in ("run", "cache") for path in sorted((whole / name).rglob("*")))
    return [path for path in found if (whole / path).is_file() and not any(part in _NOT_READ for part in path.parts)]


def outcome_of(
    whole: Path, work: Path, path: Path | None, how: str, rng: random.Random
) -> tuple[dict[str, tuple[str, str]], dict[str, object]]:
    """How each action ended on a copy with one damaged file, and what it left."""
    outcomes: dict[str, tuple[str, str]] = {}
    left: dict[str, object] = {}
    damaged = damage((whole / path).read_bytes(), how, rng) if path else None
    for action in ("inspect", "evaluate", "go on"):
        shutil.rmtree(work, ignore_errors=True)
        for name in ("run", "cache"):
            shutil.copytree(whole / name, work / name)
        if action == "go on":  # stage 2 stopped just before its end
            (work / "run/stages/edpo/DONE.json").unlink()
            shutil.rmtree(work / "run/stages/edpo/final")
        if path is not None and (work / path).exists():
            (work / path).unlink()
            if damaged is not None:
                (work / path).write_bytes(damaged)
        outcomes[action], left[action] = _acted(work, action, path)
    return outcomes, left


def _acted(work: Path, action: str, path: Path | None) -> tuple[tuple[str, str], object]:
    stages = {"inspect": "inspect", "evaluate": "evaluate", "go on": "edpo"}[action]
    folders = (f"--config.run_dir={work / 'run'}", f"--config.data.cache_dir={work / 'cache'}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = main(["--config", str(CONFIG), *folders, f"--config.stages={stages}", *_FIELDS])
    except BaseException:  # whatever comes out of the program is what a user would see
        return ("traceback", traceback.format_exc().splitlines()[-1][:200]), None
    message = next((line for line in said.getvalue().splitlines() if line.startswith("error: ")), "")
    if status == 0:
        return ("done", ""), _left(work / "run", action)
    named = path is not None and any(str(part) in message for part in (path.name, *path.parents[:-1]))
    return ("told" if status == 2 and named else "untold", message[:300]), None


def _left(run: Path, action: str) -> object:
    """What an action leaves that must not differ."""
    if action == "inspect":
        return (run / "inspect/inspection.jsonl").read_bytes()
    if action == "evaluate":
        return [path.read_bytes() for path in sorted((run / "predictions").glob("*.jsonl"))]
    return final_weights(run / "stages/edpo")
