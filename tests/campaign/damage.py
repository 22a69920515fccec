"""Damaged files of a finished run and its cache: found and rebuilt, or told; what is read is what was written."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.process.files import replace_file
from tests.campaign.damaged_run import LAST, RUN, Ended, Place, act, actions_on, tells_what_is_read
from tests.campaign.kinds import judge, write_inputs
from tests.campaign.report import Report, append_row, rows_of
from tests.support.tiny_run import run_main

_HOW: Final = ("truncated", "emptied", "deleted", "flipped")
_LOOK: Final = ("open", "inspect", "evaluate", "export")
"""Actions that are tried without a file whoever reads it: they could look whether it is there."""
_ARRAYS: Final = ("final", "checkpoints")


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
      only: Files whose path contains it, or one of several with commas between; "" = all.
      share: (2, 3) = every third case from the second on, for campaigns beside each other in one folder.
    """
    name = "_{}_of_{}".format(*share)
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder / "inputs")
    with judge(folder / f"port{name}") as url:
        place = Place(folder / "whole", folder / f"work{name}", RUN.overrides(folder / "inputs", url))
        files = finished(place)
        results = folder / f"results{name}.jsonl"
        done = rows_of(results, seed)
        expected = {action: act(place, action) for action in actions_on()}
        if failed := [f"{action}: {ended.about}" for action, ended in expected.items() if ended.outcome != "done"]:
            raise SystemExit(f"nothing is damaged, and yet: {failed}")
        readers = _readers(folder, files, expected)
        say(_unread(readers))
        todo = _todo(place.whole, readers, cases, seed, only)[share[0] - 1 :: share[1]]
        say(f"damage: {len(todo)} cases, seed {seed}, {len(done.keys() & dict(todo))} of them done before")
        report = Report()
        for number, (turn, (path, how)) in enumerate(todo, start=1):
            if turn not in done:
                tried = _tried(path, how, readers[path])
                outcomes = {action: _outcome(place, action, path, how, f"{seed} {turn}", expected) for action in tried}
                done[turn] = {"seed": seed, "turn": turn, "file": str(path), "how": how, "outcomes": outcomes}
                append_row(results, done[turn])
            for action, (outcome, about) in done[turn]["outcomes"].items():
                report.add(f"{how}, then {action}", outcome, f"{path}: {about}")
            if number % 20 == 0:
                say(f"  {number} of {len(todo)} done, {len(report.failures)} failed")
        say(_unmoved(done.values()))
    return report


def _todo(
    whole: Path, readers: Mapping[Path, tuple[str, ...]], cases: int, seed: int, only: str
) -> list[tuple[int, tuple[Path, str]]]:
    """The cases by their number among all: each file that is read, damaged in each way."""
    # An empty file can only be deleted: the other ways leave it as it is.
    ways = {path: _HOW if (whole / path).stat().st_size else ("deleted",) for path in readers if readers[path]}
    every = enumerate((path, how) for path, found in ways.items() for how in found)
    todo = [case for case in every if any(part in str(case[1][0]) for part in only.split(","))]
    return random.Random(seed).sample(todo, cases) if cases else todo


def _readers(folder: Path, files: list[Path], expected: Mapping[str, Ended]) -> dict[Path, tuple[str, ...]]:
    """The actions that read each file; all that could, where the file system does not tell."""
    if not tells_what_is_read(folder):
        return {path: actions_on(path) for path in files}
    return {path: tuple(a for a in actions_on(path) if str(path) in expected[a].read) for path in files}


def _tried(path: Path, how: str, readers: tuple[str, ...]) -> list[str]:
    """The actions that are tried on a damaged file: what reads it, and without it, what may look for it."""
    looks = _LOOK if how == "deleted" and not any(part in _ARRAYS for part in path.parts) else ()
    return [action for action in actions_on(path) if action in readers or action in looks]


def _outcome(
    place: Place, action: str, path: Path, how: str, seed: str, expected: Mapping[str, Ended]
) -> tuple[str, str]:
    """How an action ended with a damaged file, and what it said."""
    ended = act(place, action, path, how, seed)
    if ended.outcome in ("done", "rebuilt") and ended.left != expected[action].left:
        return ("told" if ended.named else "silent"), ended.about
    return ("same" if ended.outcome == "done" else ended.outcome), ended.about


def _unread(readers: Mapping[Path, tuple[str, ...]]) -> str:
    unread = sorted(str(path) for path, found in readers.items() if not found)
    return f"{len(unread)} of {len(readers)} files are read by no action, and are not damaged: {', '.join(unread)}"


def _unmoved(rows: Iterable[dict[str, Any]]) -> str:
    """The files of which the cases show nothing: whatever is done to them, every action ends as without it."""
    ends: dict[str, set[str]] = {}
    for row in rows:
        ends.setdefault(row["file"], set()).update(outcome for outcome, _ in row["outcomes"].values())
    unmoved = sorted(name for name, found in ends.items() if found == {"same"})
    return f"{len(unmoved)} of {len(ends)} files were neither told of nor rebuilt: {', '.join(unmoved)}"


def finished(place: Place) -> list[Path]:
    """Files of the run that is damaged, which is trained if none is there."""
    whole = place.whole
    whole.mkdir(parents=True, exist_ok=True)
    listed = whole / "files.json"
    with (whole / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the campaigns beside each other one trains it
        if not listed.exists():
            for name in ("run", "cache"):
                shutil.rmtree(whole / name, ignore_errors=True)
            run_main(whole, *place.fields)
            for stage, last in LAST.items():  # what a stage goes on from has steps left to train
                shutil.rmtree(whole / "run/stages" / stage / "checkpoints" / str(last))
            replace_file(listed, json.dumps([str(path) for path in files_of(whole)]))
    return [Path(name) for name in json.loads(listed.read_text())]


def files_of(whole: Path) -> list[Path]:
    """Files of a run and its data set, relative to their folder."""
    found = (path for name in ("run", "cache") for path in sorted((whole / name).rglob("*")))
    return [path.relative_to(whole) for path in found if path.is_file()]
