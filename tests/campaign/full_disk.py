"""Each thing that a user may do with a finished run, on a disk that is full: told, and gone on from with room."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.campaign.damage import finished
from tests.campaign.damaged_run import RUN, Place, acted, actions_on, copy_run
from tests.campaign.kinds import judge, write_inputs
from tests.campaign.lacks import LACKS, small_disk
from tests.campaign.report import Report, chosen

_ROOM: Final = 2**18
"""Kilobytes of a disk with room."""


def full_disks(folder: Path, rounds: int, seed: int, *, only: str, say: Callable[[str], None]) -> Report:
    """Does each thing with no more than a few kilobytes left, then again with room: the same as with room at once.

    Args:
      folder: For the run, which is trained first.
      rounds: Of all actions; how much is left is drawn in each anew.
      only: Actions, with commas between; "" = all that write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder / "inputs")
    actions = chosen(only, [action for action in actions_on() if not action.startswith("open")])
    report = Report()
    with judge(folder / "port") as url:
        disk = folder / "disk"
        place = Place(folder / "whole", disk / "work", RUN.overrides(folder / "inputs", url))
        finished(place)
        for action in actions:
            with small_disk(disk, _ROOM):
                copy_run(place, action)
                expected = acted(place, action)
            for turn in range(rounds):
                rng = random.Random(f"{seed} {turn} {action}")
                first, outcome, about = _tried(place, disk, action, rng, expected)
                report.add(f"{action}: {first}", outcome, f"round {turn}: {about}")
                say(f"  round {turn}, {action}: {first}, then {outcome}")
    if not any("told" in kind for kind, _ in report.counts):
        report.add("all", "unshown", "every action had room enough: try another seed, or more rounds")
    return report


def _tried(
    place: Place, disk: Path, action: str, rng: random.Random, expected: tuple[str, str, object]
) -> tuple[str, str, str]:
    """How an action ended on a full disk, how the same one did with room, and what was said."""
    with small_disk(disk, _ROOM) as resize:
        copy_run(place, action)
        room = os.statvfs(disk)
        resize((room.f_blocks - room.f_bfree) * room.f_frsize // 1024 + rng.randint(0, 16))
        outcome, said, _ = acted(place, action)
        resize(_ROOM)
        again = acted(place, action)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    told = outcome == "refused" and len(errors) == 1 and LACKS["disk full"].says in errors[0]
    if outcome != "done" and not told:
        return outcome, "traceback" if outcome == "traceback" else "untold", said[-300:]
    first = "told" if told else "done"
    if again[0] != "done":
        return first, "untold", again[1][-300:]
    return first, "same" if again[2] == expected[2] else "silent", ""
