"""Damaged files of a finished run and its cache: found and rebuilt, or told; what is read is what was written."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import sage_jax
from sage_jax.errors import UserError
from sage_jax.main import main
from sage_jax.process.files import replace_file
from sage_jax.training.finished import final_weights
from tests.campaign.mutate import damage
from tests.campaign.report import Report, append_row, rows_of
from tests.support.tiny_run import CONFIG, run_main

_HOW: Final = ("truncated", "emptied", "deleted", "flipped")
_CHAIN: Final = ("base", "sfe", "edpo")
_NOT_READ: Final = ("tensorboard", "log.txt", "metrics.jsonl", "versions.json", "loss.png", "predictions", "inspect")
"""What a run writes for its user and reads no more, but for plots."""
_HALVES: Final = {"base": 5, "sfe": 10, "edpo": 2}
"""Half of the steps of each stage of the tiny run."""
_FIELDS: Final = (
    "--config.evaluate.stages=('edpo',)",
    "--config.evaluate.num_records=4",
    "--config.inspect.max_images=2",
    *(f"--config.{stage}.checkpoint_every={half}" for stage, half in _HALVES.items()),
    *(f"--config.{stage}.keep_last=2" for stage in _HALVES),
)


def damage_run(
    folder: Path,
    cases: int,
    seed: int,
    *,
    share: tuple[int, int] = (1, 1),
    only: str = "",
    say: Callable[[str], None],
) -> Report:
    """Damages a file of a copy of a finished run, then does what a user would do next with it.

    Every case is written to a file of results, and a campaign in the same folder goes on behind the last one.

    Args:
      folder: For the run, its copies and results.
      cases: Drawn among all files and kinds of damage; 0 = all of them.
      only: Files whose path contains it; "" = all.
      share: (2, 3) = every third case from the second on, for campaigns beside each other in one folder.
    """
    name = "_{}_of_{}".format(*share)
    whole, work, results = folder / "whole", folder / f"work{name}", folder / f"results{name}.jsonl"
    report, done = Report(), rows_of(results, seed)
    files = _finished(whole)
    _, expected = outcome_of(whole, work, None, "", random.Random(seed))
    # An empty file can only be deleted: the other ways leave it as it is.
    cases_of = {path: _HOW if (whole / path).stat().st_size else ("deleted",) for path in files}
    every = enumerate((path, how) for path, ways in cases_of.items() for how in ways)
    todo = [case for case in every if only in str(case[1][0])]
    todo = random.Random(seed).sample(todo, cases) if cases else todo
    todo = todo[share[0] - 1 :: share[1]]
    say(f"damage: {len(todo)} cases, seed {seed}, {len(done.keys() & dict(todo))} of them done before")
    for number, (turn, (path, how)) in enumerate(todo, start=1):
        if turn not in done:
            outcomes = _case(whole, work, path, how, expected, random.Random(f"{seed} {turn}"))
            done[turn] = {"seed": seed, "turn": turn, "file": str(path), "how": how, "outcomes": outcomes}
            append_row(results, done[turn])
        for action, (outcome, about) in done[turn]["outcomes"].items():
            report.add(f"{how}, then {action}", outcome, f"{path}: {about}")
        if number % 20 == 0:
            say(f"  {number} of {len(todo)} done, {len(report.failures)} failed")
    say(_unread(done.values()))
    return report


def _unread(rows: Iterable[dict[str, Any]]) -> str:
    """The files of which the cases show nothing: whatever is done to them, every action ends as without it."""
    ends: dict[str, set[str]] = {}
    for row in rows:
        ends.setdefault(row["file"], set()).update(outcome for outcome, _ in row["outcomes"].values())
    unread = sorted(name for name, found in ends.items() if found == {"same"})
    return f"{len(unread)} of {len(ends)} files were neither told of nor rebuilt: {', '.join(unread)}"


def _finished(whole: Path) -> list[Path]:
    """Files of the run that is damaged, which is trained if none is there."""
    whole.mkdir(parents=True, exist_ok=True)
    listed = whole / "files.json"
    with (whole / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the campaigns beside each other one trains it
        if not listed.exists():
            for name in ("run", "cache"):
                shutil.rmtree(whole / name, ignore_errors=True)
            run_main(whole, f"--config.stages=prepare,{','.join(_CHAIN)}", *_FIELDS)
            for stage, half in _HALVES.items():  # what a stage goes on from has steps left to train
                shutil.rmtree(whole / "run/stages" / stage / "checkpoints" / str(2 * half))
            replace_file(listed, json.dumps([str(path) for path in files_of(whole)]))
    return [Path(name) for name in json.loads(listed.read_text())]


def _case(
    whole: Path, work: Path, path: Path, how: str, expected: dict[str, object], rng: random.Random
) -> dict[str, tuple[str, str]]:
    """How each action ended on a copy with one damaged file: (outcome, message)."""
    outcomes, found = outcome_of(whole, work, path, how, rng)
    for action, (outcome, about) in outcomes.items():
        if outcome in ("done", "rebuilt") and found[action] != expected[action]:
            outcomes[action] = ("silent", about)
        elif outcome == "done":
            outcomes[action] = ("same", about)
    return outcomes


def files_of(whole: Path) -> list[Path]:
    """Files of a run and its data set that are read again, relative to their folder."""
    found = (path.relative_to(whole) for name in ("run", "cache") for path in sorted((whole / name).rglob("*")))
    return [path for path in found if (whole / path).is_file() and not any(part in _NOT_READ for part in path.parts)]


def actions_on(path: Path | None) -> tuple[str, ...]:
    """What a user may do next that reads a file; None = all of it.

    `open` is `sage_jax.load`, which alone reads the config of the run: the others are given one.
    """
    train = tuple(f"go on with {stage}" for stage in _CHAIN)
    stage = path.parts[2] if path and path.parts[:2] == ("run", "stages") else ""
    opened = ("open",) if not path or path.parts[0] == "run" else ()
    if not path or not stage:
        return (*opened, "inspect", "evaluate", *train)
    if path.parts[3] == "checkpoints":
        return (f"go on with {stage}",)
    # A stage that goes on has neither its parameters nor any later stage's.
    return ("open", "inspect", "evaluate", *train[_CHAIN.index(stage) + 1 :])


def outcome_of(
    whole: Path, work: Path, path: Path | None, how: str, rng: random.Random
) -> tuple[dict[str, tuple[str, str]], dict[str, object]]:
    """How each action ended on a copy with one damaged file, and what it left."""
    outcomes: dict[str, tuple[str, str]] = {}
    left: dict[str, object] = {}
    intact = (whole / path).read_bytes() if path else b""
    damaged = damage(intact, how, rng) if path else None
    for action in actions_on(path):
        shutil.rmtree(work, ignore_errors=True)
        for name in ("run", "cache"):
            shutil.copytree(whole / name, work / name)
        stages, stage = work / "run/stages", action.rpartition(" ")[2]
        if stage in _CHAIN:  # stopped half way
            (stages / stage / "DONE.json").unlink()
            shutil.rmtree(stages / stage / "final")
            for later in _CHAIN[_CHAIN.index(stage) + 1 :]:
                shutil.rmtree(stages / later)
        if path is not None and (work / path).exists():
            (work / path).unlink()
            if damaged is not None:
                (work / path).write_bytes(damaged)
        (outcome, about), left[action] = _acted(work, action, path)
        if outcome == "done" and path and (work / path).is_file() and (work / path).read_bytes() == intact != damaged:
            outcome = "rebuilt"
        outcomes[action] = (outcome, about)
    return outcomes, left


def _acted(work: Path, action: str, path: Path | None) -> tuple[tuple[str, str], object]:
    said = io.StringIO()
    opened: object = None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if action == "open":
                status, opened = _opened(work / "run")
            else:
                status = main([*_arguments(work), f"--config.stages={action.rpartition(' ')[2]}"])
    except BaseException:  # whatever comes out of the program is what a user would see
        return ("traceback", traceback.format_exc().splitlines()[-1][:200]), None
    message = next((line for line in said.getvalue().splitlines() if line.startswith("error: ")), "")
    if status == 0:
        return ("done", ""), opened or _left(work / "run", action)
    # Of its folders, those of the run and of all data are in every path: they name nothing.
    places = [part for part in path.parents if len(part.parts) > 1] if path else []
    named = path is not None and any(str(part) in message for part in (path.name, *places))
    return ("told" if status == 2 and named else "untold", message[:300]), None


def _arguments(work: Path) -> list[str]:
    folders = (f"--config.run_dir={work / 'run'}", f"--config.data.cache_dir={work / 'cache'}")
    return ["--config", str(CONFIG), *folders, *_FIELDS]


def _opened(run: Path) -> tuple[int, object]:
    """How a program ends that opens a run from Python, and what it finds there."""
    try:
        inspector = sage_jax.load(run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2, None
    return 0, (inspector.config, inspector.stage)


def _left(run: Path, action: str) -> object:
    """What an action leaves that must not differ."""
    if action == "inspect":
        return (run / "inspect/inspection.jsonl").read_bytes()
    if action == "evaluate":
        return [path.read_bytes() for path in sorted((run / "predictions").glob("*.jsonl"))]
    return final_weights(run / "stages" / action.rpartition(" ")[2])
