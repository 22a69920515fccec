"""Campaigns that break the program on purpose: `python -m tests.campaign fuzz | damage | kill | resources | full`.

    python -m tests.campaign fuzz --mutants 10000 --seed 0 --keep failing
    python -m tests.campaign damage --cases 0 --seed 0 --keep damaged
    python -m tests.campaign kill --runs 50 --seed 0 --keep killed
    python -m tests.campaign resources --rounds 3 --seed 0
    python -m tests.campaign full --rounds 2 --seed 0

Exit status 1 if anything was found. docs/reliability.md has what they found.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.support.tiny_run import QUICK_TO_COMPILE


def main() -> int:
    """Runs a campaign and prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fuzz = commands.add_parser("fuzz", help="damaged inputs: one message each, no traceback, no other value")
    fuzz.add_argument("--mutants", type=int, default=10_000)
    fuzz.add_argument("--keep", default="", help="folder for inputs that failed")
    fuzz.add_argument("--only", default="", help="one kind of input")
    damage = commands.add_parser("damage", help="damaged files of a run: found, rebuilt or told, never read")
    damage.add_argument("--cases", type=int, default=0, help="files and damages drawn; 0 = every file, four ways")
    damage.add_argument(
        "--only", default="", help="files whose path contains it, or one of several with commas between"
    )
    damage.add_argument("--share", type=_share, default="1/1", help="K/N: every Nth case from the Kth on")
    kill = commands.add_parser("kill", help="whole runs, killed at random moments: the same bytes in the end")
    kill.add_argument("--runs", type=int, default=50)
    full = commands.add_parser("full", help="everything that a finished run is good for, on a full disk")
    full.add_argument("--rounds", type=int, default=2)
    full.add_argument("--only", default="", help="actions, with commas between")
    for command in (damage, kill, full):
        command.add_argument("--keep", default="", help="folder to work in, where a campaign that was stopped goes on")
    kill.add_argument("--only", default="", help="kinds of run, with commas between")
    resources = commands.add_parser("resources", help="runs that lack something: told, and gone on from")
    resources.add_argument("--rounds", type=int, default=3)
    resources.add_argument("--only", default="", help="kinds of lack, with commas between")
    for command in (fuzz, damage, kill, resources, full):
        command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        folder = Path(scratch)
        _settle(folder)
        kept = Path(getattr(options, "keep", "") or folder).absolute()
        if options.command == "fuzz":
            from tests.campaign.fuzz import fuzz_inputs

            keep = Path(options.keep) if options.keep else None
            report = fuzz_inputs(folder, options.mutants, options.seed, keep=keep, only=options.only, say=print)
        elif options.command == "damage":
            from tests.campaign.damage import damage_run

            report = damage_run(kept, options.cases, options.seed, share=options.share, only=options.only, say=print)
        elif options.command == "full":
            from tests.campaign.full_disk import full_disks

            report = full_disks(kept, options.rounds, options.seed, only=options.only, say=print)
        elif options.command == "resources":
            from tests.campaign.resources import resource_runs

            report = resource_runs(folder, options.rounds, options.seed, only=options.only, say=print)
        else:
            from tests.campaign.kinds import kill_kinds

            report = kill_kinds(kept, options.runs, options.seed, only=options.only, say=print)
    print(report)
    return int(report.failed)


def _share(text: str) -> tuple[int, int]:
    which, of = map(int, text.split("/"))
    if not 1 <= which <= of:
        raise ValueError(text)
    return which, of


def _settle(folder: Path) -> None:
    """Programs compile as those of `tests.support.tiny_run` do, and find what these compiled; set before JAX starts."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK_TO_COMPILE,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }


if __name__ == "__main__":
    sys.exit(main())
