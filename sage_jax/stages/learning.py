"""Stage `learn`: a version of a run whose model has learnt from corrections, measured before and after."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, Final

from sage_jax.config import LEARN, Config, ConfigError
from sage_jax.corrections.store import FILE, FOLDER, store_of
from sage_jax.data.given_records import records_digest, store_records
from sage_jax.journal.run_log import RunLog
from sage_jax.process.checksums import sealed_json
from sage_jax.process.files import locked, remove_leftovers, replace_file
from sage_jax.process.signals import Interrupted
from sage_jax.stages.learnt import Learnt, judgement, print_learnt
from sage_jax.stages.lesson import Lesson, make_lesson
from sage_jax.stages.run import Run, Stage, StageCost
from sage_jax.stages.start import Start
from sage_jax.stages.training import train
from sage_jax.stages.versions import (
    REPORT,
    active_version,
    root_of,
    use_version,
    version_folder,
    version_numbers,
)

_PLAN: Final = "plan.json"
_LORA_RANK: Final = 16
_COMPARING: Final = ("sfe", "base_dpo", "dpo", "edpo", LEARN)
"""Stages whose models preferences are learnt with: they are given facts through the fusion."""


def learn(stage: Stage) -> StageCost:
    """Trains the present model of a run on its corrections, into a version; offers it where nothing falls beyond noise.

    Raises:
      ConfigError: There are too few corrections, or the model is none that this stage can go on from.
      UserError: A correction or the run's data set cannot be read.
    """
    run, log, began = stage.run, stage.log, time.time()
    name, root = check_learning(run), root_of(run.folder.path)
    lesson = make_lesson(run, name, store_of(root))
    log.line(str(lesson))
    number, folder = _version(root, run, name, lesson)
    with locked(folder):
        remove_leftovers(folder)
        prepared = store_records(lesson.records, folder / "records")
        made = Run(version_config(run.config, folder), Start(run.trained, run.config, name), {LEARN: prepared})
        made.folder.write_config(made.config)
        cost = StageCost()
        if LEARN not in made.trained:
            with RunLog(folder, LEARN) as own:
                cost = train(Stage(made, LEARN, own))
            if cost.interrupted:
                return cost
        try:
            measures, calibration = Learnt(run, name, made, stage).measure(lesson)
        except Interrupted as stopped:
            return StageCost(interrupted=str(stopped))
        offered, why = judgement(measures, calibration)
        report = {
            "version": number,
            "from_version": active_version(root),
            "time": time.time(),
            "seconds": time.time() - began,
            "offered": offered,
            "why": why,
            "measures": {measure: found.as_json() for measure, found in measures.items()},
            "calibration": calibration,
            "learnt": _learnt(lesson, run),
        }
        replace_file(folder / REPORT, json.dumps(sealed_json(report), indent=1, ensure_ascii=False) + "\n")
    print_learnt(report)
    _tell(stage, root, report)
    return cost


def check_learning(run: Run) -> str:
    """Checks that a run can learn from corrections, before anything is computed.

    Returns:
      The training stage of its present model.

    Raises:
      ConfigError: It cannot; the message names why, and the way out.
    """
    name, root = run.trained.last(), root_of(run.folder.path)
    if name is None:
        raise run.trained.missing("sfe", wanted_by=LEARN)
    if name not in _COMPARING:
        raise ConfigError(
            f"stage 'learn' goes on from a model of {', '.join(_COMPARING[:-1])}; the last one trained in {root} is "
            f"{name!r}: train 'sfe' first"
        )
    if run.config.data.language != "en":
        raise ConfigError(f"data.language = {run.config.data.language!r}: corrections are learnt in English alone")
    if run.config.data.facts == "model":
        raise ConfigError(
            "data.facts = 'model': corrections come without facts that a model wrote; stage 'learn' needs a run with "
            "data.facts = 'vocabulary'"
        )
    if not (root / FOLDER / FILE).is_file():
        raise ConfigError(f"{root / FOLDER}: there are no corrections of this run yet: correct inspections first")
    return name


def version_config(config: Config, folder: Path) -> Config:
    """The config of a version: of its run, with its folder and its one training stage.

    A model on `model.weights` gets adapters of rank 16, where the config names none. The lengths of texts are measured,
    since people's words may need more than those of the data set.
    """
    learn = config.learn
    if config.model.weights and not learn.lora.rank:
        learn = dataclasses.replace(learn, lora=dataclasses.replace(learn.lora, rank=_LORA_RANK))
    return dataclasses.replace(
        config,
        run_dir=str(folder),
        start_from="",
        stages=LEARN,
        learn=learn,
        text=dataclasses.replace(config.text, buckets=()),
        evaluate=dataclasses.replace(config.evaluate, stages=(LEARN,)),
        inspect=dataclasses.replace(config.inspect, stage=""),
    )


def _version(root: Path, run: Run, name: str, lesson: Lesson) -> tuple[int, Path]:
    """Number and folder of the version to make: one that was begun with the same lesson, or the next.

    One that was begun with another lesson, and has not finished, makes room.
    """
    parts = [run.trained.weights_hash(name), records_digest(lesson.records), dataclasses.asdict(run.config.learn)]
    plan = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    number = max(version_numbers(root), default=0)
    folder = version_folder(root, number)
    if number and not (folder / REPORT).is_file():
        begun = folder / _PLAN
        if not (begun.is_file() and begun.read_text(encoding="utf-8").strip() == plan):
            shutil.rmtree(folder)
    else:
        number += 1
        folder = version_folder(root, number)
    replace_file(folder / _PLAN, f"{plan}\n")
    return number, folder


def _learnt(lesson: Lesson, run: Run) -> dict[str, Any]:
    """What a version learnt from, for its report."""

    def rows(images: Any) -> list[int]:
        return [each.entry.correction.id for each in images]

    return {
        "trained": rows(lesson.trained),
        "held_out": rows(lesson.held_out),
        "records": lesson.num_own,
        "replayed": len(lesson.records) - lesson.num_own,
        "unknown_kinds": list(lesson.unknown_kinds),
        "in_pieces": list(lesson.in_pieces),
        "left_out": lesson.left_out,
        "steps": run.config.learn.steps,
    }


def _tell(stage: Stage, root: Path, report: dict[str, Any]) -> None:
    number, before = report["version"], report["from_version"]
    if report["offered"] and stage.config.learn.accept:
        use_version(root, number)
        stage.log.line(f"version {number} answers; `sage-jax use {root} --version {before}` goes back")
    elif report["offered"]:
        stage.log.line(f"version {number}: `sage-jax use {root} --version {number}` takes it, with N = {before} back")
    else:
        stage.log.line(f"version {number} is kept and not used; version {before} answers as before")
