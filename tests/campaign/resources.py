"""Runs that lack something: room, permission, handles, memory, an output, a home; and names and clocks that are odd.

A run that lacks something ends with one message and exit status 2. Given it, the same command goes on and ends with the
bytes of a run that lacked nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.campaign.lacks import LACKS, Lack, give_back
from tests.campaign.report import Report, chosen
from tests.campaign.work import Ended, Work, left, place


def resource_runs(
    folder: Path,
    rounds: int,
    seed: int,
    *,
    only: str,
    say: Callable[[str], None],
    lacks: Mapping[str, Lack] = LACKS,
) -> Report:
    """Runs of each kind of lack, then the same command without it.

    A kind that every round had enough for shows nothing, and is a failure.

    Args:
      rounds: Of all kinds; how much is lacking is drawn in each anew.
      only: Kinds, with commas between; "" = all.
      lacks: All kinds.
    """
    kinds = {name: lacks[name] for name in chosen(only, lacks)}
    report = Report()
    whole = folder / "whole"
    whole.mkdir()
    if (ended := Work(whole, random.Random(0)).run()).status:
        report.add("nothing lacks", "untold", ended.said[-300:])
        return report
    expected = left(whole / "run")
    say(f"resources: {rounds} rounds of {len(kinds)} kinds, seed {seed}")
    noticed = {name: 0 for name, kind in kinds.items() if kind.says}
    for turn in range(rounds):
        for name, kind in kinds.items():
            rng = random.Random(f"{seed} {turn} {name}")
            lacking, outcome, about = _case(folder / "work", whole / "compiled", kind, rng, expected)
            first = f"{lacking.outcome} in {lacking.stage}" if lacking.outcome == "told" else lacking.outcome
            report.add(f"{name}: {first}", outcome, f"round {turn}: {about}")
            say(f"  round {turn}, {name}: {first}, then {outcome}")
            if name in noticed:
                noticed[name] += lacking.outcome != "done"
    for name in (name for name, times in noticed.items() if not times):
        report.add(f"{name}: never", "unshown", f"{rounds} rounds had enough of it: try another seed, or more rounds")
    return report


def _case(
    folder: Path, compiled: Path, kind: Lack, rng: random.Random, expected: dict[str, object]
) -> tuple[Ended, str, str]:
    """The run that lacked something, how the next one ended, and what differs or was said."""
    with place(folder, compiled) as work:
        lacking = kind.run(Work(work, rng))
        if fault := fault_of(lacking, kind):
            return lacking, fault, lacking.said[-600:]
        give_back(work)
        again = Work(work, rng).run()
        if again.status:
            return lacking, "untold", f"{lacking.said[-300:]} ... {again.said[-600:]}"
        found = left(work / "run")
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return lacking, "silent" if differing else "same", str(differing)


def fault_of(lacking: Ended, kind: Lack) -> str:
    """What is wrong with how a run ended that lacked something; "" = nothing."""
    if lacking.outcome == "told" and (not kind.says or not re.search(rf"^error: .*({kind.says})", lacking.said, re.M)):
        return "untold"  # the message is about something else
    if lacking.outcome == "died" and not kind.may_die:
        return "died"
    return lacking.outcome if lacking.outcome in ("traceback", "untold") else ""
