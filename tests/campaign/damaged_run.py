"""The run whose files `damage` damages, what a user may do next with it, and how that ended."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import sys
import traceback
from pathlib import Path
from typing import Final

import sage_jax
from sage_jax.errors import UserError
from sage_jax.journal.summary import JUDGED_METRICS
from sage_jax.main import main
from sage_jax.training.finished import final_weights
from tests.campaign.kinds import Kind
from tests.campaign.mutate import damage
from tests.support.tiny_run import CONFIG

CHAIN: Final = ("base", "sfe", "edpo")
RUN: Final = Kind(
    "prepare,base,facts,sfe,edpo,evaluate,judge,calibrate,benchmark,inspect,export",
    "edpo",
    ("data.facts=model", "facts.max_tokens=4", "data.vit_features=disk", *(f"{name}.keep_last=2" for name in CHAIN)),
)
"""It has every file that a run reads again but those of the review, of learning and of versions."""
LAST: Final = {"base": 4, "sfe": 6, "edpo": 3}
"""The last checkpoint of each stage, which is taken away: what goes on from the one before has steps left to train."""
_STAGES: Final = ("inspect", "evaluate", "judge", "calibrate", "benchmark", "facts")
"""Stages that are called again on the finished run, beside training."""
_OPEN, _OPEN_EXPORT = "open", "open the export"
_EXPORT, _EXPORT_AGAIN = "export", "export again"
_FROM_REPLIES: Final = "judge from replies"
_OF_DAMAGE: Final = ("damaged", "gone", " has none of these weights")
"""Words of a line that tells of a damage while an action goes on."""
_LONG_AGO: Final = 1_000_000_000
"""A time of last access that a file has before an action."""

Outcome = tuple[str, str]
"""How an action ended, and what it said."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a campaign works.

    Attributes:
      whole: Holds the finished run, as `run`, and its data set, as `cache`.
      work: Gets a copy of both for each action.
      fields: Fields of the run, as overrides.
    """

    whole: Path
    work: Path
    fields: tuple[str, ...]


def actions_on(path: Path | None = None) -> tuple[str, ...]:
    """What a user may do next that could read a file; None = all of it.

    `open` is `sage_jax.load`, which alone reads the config of the run: the others are given one. `export` writes a new
    one, `export again` finds the one that is there; `judge from replies` has lost the judgements made of them.
    """
    trained = tuple(f"go on with {stage}" for stage in CHAIN)
    every = (_OPEN, *_STAGES, _EXPORT, *trained, _EXPORT_AGAIN, _OPEN_EXPORT, _FROM_REPLIES)
    parts = path.parts if path else Path().parts
    if parts[:2] in (("run", "export"), ("run", "exported.json")):  # which `export` writes
        return _EXPORT_AGAIN, _OPEN_EXPORT
    if parts[:2] == ("run", "judgements") and parts[2] != "replies.jsonl":
        return every[:-1]  # the last one has lost them
    if parts[:2] != ("run", "stages"):
        return every
    if parts[3] == "checkpoints":
        return (f"go on with {parts[2]}",)
    # A stage that goes on has neither its parameters nor any later stage's.
    gone = {f"go on with {stage}" for stage in CHAIN[: CHAIN.index(parts[2]) + 1]}
    return tuple(action for action in every if action not in gone)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How an action ended.

    Attributes:
      outcome: What to say of it: `done`, `rebuilt` (the damaged file is as it was), `told`, or what should not be.
      about: What it said.
      left: What it left that must not differ; None = nothing.
      read: Files that it read.
      named: Whether it told of a damage of the file, and went on.
    """

    outcome: str
    about: str
    left: object
    read: frozenset[str]
    named: bool = False


def act(place: Place, action: str, path: Path | None = None, how: str = "", seed: str = "") -> Ended:
    """Does what a user would do next on a copy of the run, with one damaged file.

    Args:
      path: The file; None = none is damaged.
      how: The damage.
      seed: Draws where it is.
    """
    copy_run(place, action)
    copied = place.work / path if path else None
    intact = copied.read_bytes() if copied else b""
    damaged = damage(intact, how, random.Random(seed)) if copied else None
    if copied is not None:
        copied.unlink()
        if damaged is not None:
            copied.write_bytes(damaged)
    date_back(place.work)
    outcome, said, left = acted(place, action)
    read = read_since(place.work)
    if outcome == "done" and copied and copied.is_file() and copied.read_bytes() == intact != damaged:
        outcome = "rebuilt"
    message = next((line for line in said.splitlines() if line.startswith("error: ")), "")
    if outcome == "refused":
        outcome = "told" if path and _is_named(path, message) else "untold"
    about = message if outcome in ("told", "untold") else said if outcome == "traceback" else ""
    told = [line for line in said.splitlines() if any(word in line for word in _OF_DAMAGE)]
    return Ended(outcome, about[:300], left, read, named=any(path and path.name in line for line in told))


def _is_named(path: Path, said: str) -> bool:
    """Whether a text names a file, or a folder of it other than those of the run and of all data, which are in all."""
    return any(str(part) in said for part in (path.name, *(part for part in path.parents if len(part.parts) > 1)))


def tells_what_is_read(folder: Path) -> bool:
    """Whether a file system notes when a file is read, so that the files which no action reads can be told."""
    probe = folder / "probe"
    probe.write_bytes(b"x")
    date_back(folder)
    probe.read_bytes()
    found = probe.name in read_since(folder)
    probe.unlink()
    return found


def copy_run(place: Place, action: str) -> None:
    """A copy of the run in which an action has something to do."""
    work, stage = place.work, action.removeprefix("go on with ")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("run", "cache"):
        shutil.copytree(place.whole / name, work / name)
    if action in (_EXPORT, _EXPORT_AGAIN):  # where it lies is part of what a run notes about an export
        shutil.rmtree(work / "run/export")
        (work / "run/exported.json").unlink()
        if action == _EXPORT_AGAIN:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                _main(place, _EXPORT)
    elif action == _FROM_REPLIES:
        for path in (work / "run/judgements").glob("edpo_*"):
            path.unlink()
    elif stage in CHAIN:  # stopped half way
        stages = work / "run/stages"
        (stages / stage / "DONE.json").unlink()
        shutil.rmtree(stages / stage / "final")
        for later in CHAIN[CHAIN.index(stage) + 1 :]:
            shutil.rmtree(stages / later)


def date_back(folder: Path) -> None:
    """Gives all files a time of last access that is long gone."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (_LONG_AGO, path.stat().st_mtime))


def read_since(folder: Path) -> frozenset[str]:
    """Files that were read since they were dated back; those written since are of now, and count as well."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return frozenset(str(path.relative_to(folder)) for path in files if path.stat().st_atime > _LONG_AGO)


def acted(place: Place, action: str) -> tuple[str, str, object]:
    """How an action ended (`done`, `refused` with exit status 2, or what should not be), what it said and left."""
    said, run = io.StringIO(), place.work / "run"
    opened: object = None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if action in (_OPEN, _OPEN_EXPORT):
                status, opened = _opened(run / "export" if action == _OPEN_EXPORT else run)
            else:
                status = _main(place, action.removeprefix("go on with ").partition(" ")[0])
    except BaseException:  # whatever comes out of the program is what a user would see
        return "traceback", traceback.format_exc().splitlines()[-1][:200], None
    if status == 0:
        return "done", said.getvalue(), opened or _left(run, action)
    return "refused" if status == 2 else "untold", said.getvalue(), None


def _main(place: Place, stage: str) -> int:
    folders = (f"--config.run_dir={place.work / 'run'}", f"--config.data.cache_dir={place.work / 'cache'}")
    fields = [field for field in place.fields if not field.startswith("--config.stages=")]
    return main(["--config", str(CONFIG), *fields, *folders, f"--config.stages={stage}"])


def _opened(folder: Path) -> tuple[int, object]:
    """How a program ends that opens a model from Python, and what it finds there."""
    try:
        inspector = sage_jax.load(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2, None
    config = dataclasses.asdict(inspector.config)
    del config["run_dir"]  # of an export, a folder of a random name
    return 0, (config, inspector.stage, inspector.threshold())


def _left(run: Path, action: str) -> object:
    """What an action leaves that must not differ."""
    if action.startswith("go on with "):
        return final_weights(run / "stages" / action.removeprefix("go on with "))
    return {
        str(path.relative_to(run)): hashlib.sha256(_comparable(path, action)).hexdigest()
        for pattern in _RESULTS[action]
        for path in sorted(run.glob(pattern))
        if path.is_file()
    }


_RESULTS: Final[dict[str, tuple[str, ...]]] = {
    "inspect": ("inspect/inspection.jsonl",),
    "evaluate": ("predictions/*.jsonl", "summary.json"),
    "judge": ("judgements/edpo_*", "summary.json"),
    _FROM_REPLIES: ("judgements/edpo_*", "summary.json"),
    "calibrate": ("calibration.json",),
    "benchmark": ("benchmarks/*/*.json*",),
    "facts": ("facts/**/*",),
    _EXPORT: ("export/**/*",),
    _EXPORT_AGAIN: ("export/**/*.json", "export/*.py", "export/*.safetensors"),  # but the card, which may be edited
}
"""Files that each action is called for."""


def _comparable(path: Path, action: str) -> bytes:
    """A file without what measures the machine, and without an order that is none.

    An evaluation that is done anew begins its metrics anew: what a judge said of earlier answers is not of these.
    """
    if path.name == "summary.json":
        summary = json.loads(path.read_text(encoding="utf-8"))
        metrics = summary.get("metrics", summary)
        if action == "evaluate":
            for entry in (entry for modes in metrics.values() for entry in modes.values()):
                for name in {"judged", *JUDGED_METRICS} & entry.keys():
                    del entry[name]
        return json.dumps(metrics).encode()
    if path.suffix == ".jsonl":
        return b"".join(sorted(path.read_bytes().splitlines()))
    return path.read_bytes()
