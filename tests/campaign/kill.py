"""Whole runs that are killed at random moments and started again: in the end, the bytes of a run that nobody killed."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.process.files import replace_file
from tests.campaign.contents import contents
from tests.campaign.report import Report, append_row, rows_of
from tests.support.forked import Forked

Process = subprocess.Popen[str] | Forked
Start = Callable[[Path, bool], Process]
"""Starts a run in a folder, its standard output a pipe, its standard error behind what is in `said.txt` there.

The second argument says whether it starts cold, from an interpreter of its own, or as a fork of one that has imported
what it imports.
"""
Contents = Callable[[Path], dict[str, str]]

_MOST_KILLS: Final = 3
_WARM: Final = 0.45
"""CPU time of a run whose programs are compiled and imports done, as a share of one that starts cold."""
_SHORTER: Final = 0.7
"""Length that is drawn from after each kill: the next start has less to do."""
_WAIT: Final = 0.1
"""Most seconds from a moment to the kill, since files are awaited without CPU time."""
_LONGEST: Final = 3600
"""Seconds that a run may take on a busy machine."""
_LINGERS: Final = 120
"""Seconds after which nothing that a killed run started may hold its output open."""
_MOST_SAID: Final = 20_000
_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+:")
"""Line of a log that begins with its stage."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Killed:
    """How a run was killed, and how it ended.

    Attributes:
      kills: Each as (signal, stage, CPU seconds).
      fault: What was wrong; "" = it came to its end.
    """

    kills: list[tuple[str, str, float]]
    fault: str


def kill_runs(
    folder: Path,
    number: int,
    seed: int,
    *,
    kinds: Mapping[str, Start],
    say: Callable[[str], None],
    of: Contents = contents,
) -> Report:
    """Kills runs at moments drawn over their whole length, start-up included, and compares what they leave.

    Moments are drawn in CPU time, which does not depend on what else the machine does. Every run is written to
    `results.jsonl`, and a campaign in the same folder goes on behind the last one.

    Args:
      folder: For runs and results.
      number: Runs, of each kind in turn; every fourth of a kind starts cold, with an empty compile cache too.
      of: Gives what is compared of a run's folder.
    """
    report, done = Report(), rows_of(folder / "results.jsonl", seed)
    say(f"kill: {number} runs of {len(kinds)} kinds, seed {seed}, {len(done)} of them done before")
    for turn in range(number):
        kind = list(kinds)[turn % len(kinds)]
        row = done.get(turn, {})
        if row.get("kind") != kind:
            began = time.monotonic()
            row = {"seed": seed, "turn": turn, "kind": kind}
            row |= _run(folder, kind, kinds[kind], random.Random(f"{seed} {turn}"), turn // len(kinds) % 4 == 0, of)
            row["seconds"] = round(time.monotonic() - began, 1)
            append_row(folder / "results.jsonl", row)
            say(
                f"  run {turn + 1} of {number}, {kind}: {len(row['kills'])} kills, {row['outcome']}, {row['seconds']} s"
            )
        report.add(f"{kind}, {'cold' if row['cold'] else 'warm'}", row["outcome"], f"run {turn}: {row['about']}")
        done[turn] = row
    say(_summary([done[turn] for turn in range(number)]))
    return report


def _summary(rows: list[dict[str, Any]]) -> str:
    kills = [kill for row in rows for kill in row["kills"]]
    signals = collections.Counter(kill[0] for kill in kills)
    stages = collections.Counter(kill[1] for kill in kills)
    return (
        f"{len(rows)} runs, {sum(row['outcome'] == 'same' for row in rows)} the same; {len(kills)} kills ("
        f"{', '.join(f'{name} {count}' for name, count in signals.most_common())}), in "
        f"{', '.join(f'{name} {count}' for name, count in stages.most_common())}; "
        f"{sum(not row['kills'] for row in rows)} runs ended before their first kill; "
        f"{sum(row['compared'] for row in rows):,} arrays and files compared"
    )


def _run(folder: Path, kind: str, start: Start, rng: random.Random, cold: bool, of: Contents) -> dict[str, Any]:
    """A run that is killed, compared with the reference of its kind, which is made if there is none."""
    reference = folder / f"{kind}.json"
    if not reference.exists():
        _refer(folder, kind, start, of)
    whole = json.loads(reference.read_text())
    work = _emptied(folder / "work")
    if not cold:
        shutil.copytree(folder / f"{kind}_compiled", work / "compiled")
    killed = _killed(functools.partial(start, work, cold), work, whole["cpu"] * (1.0 if cold else _WARM), rng)
    row = {"cold": cold, "kills": killed.kills, "outcome": "untold", "about": killed.fault, "compared": 0}
    if killed.fault:
        return row
    expected, found = whole["contents"], of(work)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    about = f"{len(differing)} differ: {differing[:4]}" if differing else ""
    return row | {"outcome": "silent" if differing else "same", "about": about, "compared": len(expected)}


def _refer(folder: Path, kind: str, start: Start, of: Contents) -> None:
    """Makes a run that nobody kills; keeps its hashes, what it compiled and its CPU time."""
    work = _emptied(folder / "work")
    cpu = 0.0
    process = start(work, True)
    while not _ended(process, 0.2):
        cpu = max(cpu, _cpu_seconds(process.pid))
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"{kind}: a run that nobody kills fails: {_said(work)}")
    shutil.rmtree(folder / f"{kind}_compiled", ignore_errors=True)
    shutil.copytree(work / "compiled", folder / f"{kind}_compiled")
    replace_file(folder / f"{kind}.json", json.dumps({"cpu": cpu, "contents": of(work)}))


def _killed(start: Callable[[], Process], work: Path, length: float, rng: random.Random) -> Killed:
    """Starts a run again until it ends by itself, or until something is wrong.

    Args:
      length: CPU seconds of the run.
    """
    kills: list[tuple[str, str, float]] = []
    for number in range(rng.randint(1, _MOST_KILLS)):
        moment, wait = rng.uniform(0.0, length * _SHORTER**number), rng.uniform(0.0, _WAIT)
        sent = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        known = len(_lines(work))
        process = start()
        while not _ended(process, 0.02) and _cpu_seconds(process.pid) < moment:
            pass
        if _ended(process, wait):  # before the moment
            return Killed(kills, _fault(process, work, last=True))
        stages = [line.split(" ", 2)[2].split(":")[0] for line in _lines(work)[known:] if _LINE.match(line)]
        kills.append((sent.name, stages[-1] if stages else "start-up", round(_cpu_seconds(process.pid), 1)))
        process.send_signal(sent)
        if fault := _fault(process, work, last=False):
            return Killed(kills, fault)
    return Killed(kills, _fault(start(), work, last=True))


def _fault(process: Process, work: Path, *, last: bool) -> str:
    """What a process does that it should not: have no end, leave others behind, say a traceback, or fail.

    Args:
      last: Whether it was left to end by itself.
    """
    if not _ended(process, _LONGEST):
        process.kill()
        return f"no end after {_LONGEST} s"
    try:
        process.communicate(timeout=_LINGERS)
    except subprocess.TimeoutExpired:
        return f"{_LINGERS} s after its end somebody holds its output open"
    return _said(work) if "Traceback" in _said(work) or (last and process.returncode) else ""


def _said(work: Path) -> str:
    said = work / "said.txt"
    return said.read_text(errors="replace")[-_MOST_SAID:] if said.exists() else ""


def _ended(process: Process, seconds: float) -> bool:
    """Whether a process ends within a time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _cpu_seconds(process: int) -> float:
    """CPU time that a process took; 0 where there is none any more."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _lines(work: Path) -> list[str]:
    """Lines of the run's log."""
    log = work / "run" / "log.txt"
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
