"""The stages of a run, in the order that the config gives them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final

import jax

from sage_jax.benchmark.tables import print_benchmark
from sage_jax.config import LEARN, TRAINING_STAGES, Config, ConfigError, DecoderConfig, DecodingConfig, config_changes
from sage_jax.config.data import OF_IMAGES
from sage_jax.data import check as data_check
from sage_jax.data import store
from sage_jax.data.drawing.sheet import contact_sheet
from sage_jax.data.lie_of_parts import lie_of_parts
from sage_jax.data.records import Fault
from sage_jax.data.sources.readers import as_stored, left_out
from sage_jax.data.trees.tokenizer import load_tokenizer
from sage_jax.errors import UserError
from sage_jax.hf.config import read_checkpoint_config
from sage_jax.inspection.console import print_inspection
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import CostMeter, load_summary
from sage_jax.journal.tables import print_summary
from sage_jax.plan.report import plans_json, print_plans
from sage_jax.plan.stage_plan import plan_stages
from sage_jax.process.allocator import keep_freed_memory
from sage_jax.process.compile_cache import keep_compiled_programs
from sage_jax.process.files import locked, remove_leftovers, replace_file
from sage_jax.process.shortages import told
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.process.version import own_version
from sage_jax.stages.ablation import ablate
from sage_jax.stages.benchmark import benchmark, benchmark_folder
from sage_jax.stages.calibration import calibrate
from sage_jax.stages.export import export
from sage_jax.stages.facts import write_facts
from sage_jax.stages.folder import held_by_one
from sage_jax.stages.inspection import inspect, inspection_folder
from sage_jax.stages.judging import judge
from sage_jax.stages.learning import learn
from sage_jax.stages.preflight import check_same_config, check_stages
from sage_jax.stages.prepared import barrier
from sage_jax.stages.rows import write_rows
from sage_jax.stages.run import Run, Stage, StageCost
from sage_jax.stages.scoring import evaluate, results_folder
from sage_jax.stages.serving import serve
from sage_jax.stages.start import words_in_pieces
from sage_jax.stages.text_check import check_text
from sage_jax.stages.training import train
from sage_jax.stages.watching import watch
from sage_jax.training.finished import final_config

PACKAGES: Final = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "transformers", "numpy")
_FAULTS: Final = "faults.jsonl"
_SHAPE_A_MODEL: Final = ("seed", "data", "text", "model")
"""Sections of the config that shape the model of every training stage, beside its own."""


def run_stages(config: Config) -> None:
    """Runs the config's stages in order and prints the summary.

    Raises:
      Interrupted: A signal stopped a stage, or came before one; the same command goes on where it stopped.
      UserError: A fault that the user can mend.
    """
    with told():
        _run(config)


def _run(config: Config) -> None:
    keep_compiled_programs(config.data.cache_dir)
    check_same_config(config)
    run = Run(_without_weights(config) if set(config.stage_names) == {"plan"} else config)
    check_stages(run, config.stage_names)
    keep_freed_memory()
    until_stopped = {"serve": serve, "watch": watch}.get(run.config.stages)
    if until_stopped is not None:  # they leave the run as it is, and may share the folder
        until_stopped(run)
        return
    with contextlib.ExitStack() as held:
        with held_by_one("run_dir", config.run_dir):
            if jax.process_index() == 0:
                held.enter_context(locked(run.folder.path))
                remove_leftovers(run.folder.path)
            run.folder.write_config(run.config)
        _run_stages(run)


def _without_weights(config: Config) -> Config:
    """The config for a plan alone, which needs no weights: the sizes are its own, or those of their config.json.

    Raises:
      ConfigError: Neither has them, or they contradict each other.
      WeightsError: config.json cannot be read, or is not supported.
    """
    model, plan, folder = config.model, config.plan, Path(config.model.weights).expanduser()
    if not model.weights:
        return config
    if (folder / "config.json").is_file():
        found = read_checkpoint_config(folder)
        model = found.applied_to(model)
        plan = dataclasses.replace(plan, vocab_size=plan.vocab_size or found.vocab_size)
    elif model.decoder == DecoderConfig():
        raise ConfigError(
            f"config.model.weights: {folder} has no config.json, and without it the sizes of the model are not known: "
            "download that file, which is enough for a plan, or give the sizes in model.vit and model.decoder"
        )
    evaluate = dataclasses.replace(config.evaluate, decoding=DecodingConfig())  # `checkpoint` asks for weights
    return dataclasses.replace(config, model=dataclasses.replace(model, weights=""), plan=plan, evaluate=evaluate)


def _run_stages(run: Run) -> None:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    run.folder.write_json("versions.json", {"python": platform.python_version(), "sage_jax": own_version(), **versions})
    for name in run.config.stage_names:
        stop_if_asked(f"stopped before stage {name}")
        run_stage(run, name)
    if jax.process_index() > 0:
        return
    if "benchmark" in run.config.stage_names:
        print_benchmark(benchmark_folder(run) / "summary.json")
    if run.config.stage_names == ("inspect",):
        print_inspection(inspection_folder(run), load_summary(run.folder.summary)["stages"].get("inspect", {}))
    elif run.config.stage_names not in (("calibrate",), ("benchmark",), (LEARN,)):  # which tell all there is
        if {"evaluate", "judge"} & {*run.config.stage_names} and (folder := results_folder(run)) != run.folder.path:
            print_summary(folder / run.folder.summary.name)
        else:
            print_summary(run.folder.summary)


def run_stage(run: Run, name: str) -> None:
    """Runs a stage and records its cost; a training stage that has finished is left as it is, cost and all.

    Raises:
      Interrupted: A signal stopped it.
    """
    with RunLog(run.folder.path, name) as log:
        if run.trained.is_imported(name):
            log.line(f"not trained: {run.start or run.config.model.weights} stands in for it")
            own = run.prepared.trained_tokenizer if run.start else None
            if run.start and own and (words := words_in_pieces(load_tokenizer(run.start.tokenizer), own)):
                log.line(f"words of this data set that its tokenizer writes in several pieces: {words}")
            return
        if name in TRAINING_STAGES and name in run.trained and name != LEARN:  # which makes one version after another
            _log_finished(run, name, log)
            return
        cost = _measured(Stage(run, name, log))
        if cost.interrupted:
            raise Interrupted(cost.interrupted)
    barrier(f"{name} done")


def _measured(stage: Stage) -> StageCost:
    """Runs a stage and records its cost; that of a training stage also if it fails, for its checkpoints stay."""
    run, name = stage.run, stage.name
    cost = StageCost(worked=name in TRAINING_STAGES, resumed=(run.folder.stage(name) / "checkpoints").is_dir())
    meter = CostMeter()
    try:
        with meter:
            cost = _STAGES[name](stage)
        return cost
    finally:
        if jax.process_index() == 0:
            own = {"shares": cost.shares, "counts": cost.counts}
            meter.record(run.folder.summary, name, worked=cost.worked, resumed=cost.resumed, **own)


def _log_finished(run: Run, name: str, log: RunLog) -> None:
    folder = run.folder.stage(name)
    log.line(f"finished before; delete {folder} to train it again")
    changes = config_changes(final_config(folder), json.dumps(dataclasses.asdict(run.config)))
    changes = [change for change in changes if change.section in (*_SHAPE_A_MODEL, name)]
    if changes:
        log.line("the config has changed since it was trained:\n  " + "\n  ".join(map(str, changes)))


def plan(stage: Stage) -> StageCost:
    """Prints the memory and time of training stages on devices that need not be there; writes `plan.json`."""
    run, config = stage.run, stage.config
    if run.checkpoint and not config.plan.vocab_size:
        vocab_size = run.checkpoint.config.vocab_size
        config = dataclasses.replace(config, plan=dataclasses.replace(config.plan, vocab_size=vocab_size))
    if jax.process_index() == 0:
        plans = plan_stages(config, stage.log.line)
        print_plans(config, plans)
        run.folder.write_json("plan.json", plans_json(config, plans))
    return StageCost()


def prepare(stage: Stage) -> StageCost:
    """Builds the data set and its tokenizer, or finds them built."""
    prepared = stage.run.prepared
    counts = f"{prepared.num_train} training and {prepared.num_test} test records"
    for sentence in stage.run.recognised:
        stage.log.line(sentence)
    stage.log.line(f"{counts}, {stage.run.chat.vocab_size} tokens, revision {prepared.revision[:12]}")
    for sentence in left_out(stage.config.data):
        stage.log.line(f"note: {sentence}")
    _tell_lie_of_parts(stage)
    _show_drawn_defects(stage)
    check_text(stage)
    return StageCost()


def _tell_lie_of_parts(stage: Stage) -> None:
    """Says whether good images lie as their references do, where they are a user's own."""
    config = stage.config
    if config.data.source not in OF_IMAGES or not stage.run.prepared.num_train or jax.process_index() > 0:
        return
    images = as_stored(config.data, config.seed)
    with contextlib.suppress(OSError, UserError):  # what cannot be read is told where it is stored
        if sentence := lie_of_parts(images, config.data, similarity=config.model.fusion.similarity):
            stage.log.line(sentence)


def _show_drawn_defects(stage: Stage) -> None:
    """Writes `drawn_defects.png`, where training has any."""
    run = stage.run
    if not stage.config.data.drawn_defects or not run.prepared.num_train or jax.process_index() > 0:
        return
    sheet = contact_sheet(store.open_split(run.prepared, "train"))
    if sheet is not None:
        path = run.folder.path / "drawn_defects.png"
        replace_file(path, sheet)
        stage.log.line(f"what was drawn into good images: {path}")


def check(stage: Stage) -> StageCost:
    """Reads the data set and prints its counts and the faults by cause; `faults.jsonl` lists every one.

    Raises:
      ConfigError: There are faults, and `data.on_bad_record` is `fail`; or questions made here tell their answers.
    """
    config, reports, given_away = stage.config, list[data_check.CheckReport](), list[str]()
    for sentence in stage.run.recognised:
        stage.log.line(sentence)
    for data in dict.fromkeys((config.data, *(config.data_of(name) for name in TRAINING_STAGES))):
        report = data_check.check(data, config.seed)
        reports.append(report)
        if data.source not in ("adpl", "rows"):  # a user's own questions are as they are
            given_away += report.given_away
        if jax.process_index() == 0:
            if data != config.data:
                stage.log.line(f"data_root = {data.root}")
            data_check.print_report(report)
        if data != config.data and (number := report.trains_on_tests_of(reports[0])):
            stage.log.line(
                f"doubt: {number} images of {data.root} train and are test images of {config.data.root} as well, to "
                "the byte: metrics on them prove nothing"
            )
    faults = [fault for report in reports for fault in report.faults]
    _write_faults(stage, faults)
    if faults and config.data.on_bad_record == "fail":
        number = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise ConfigError(
            f"{number} in the data set, all listed in {stage.run.folder.path / _FAULTS}: mend them, or leave bad "
            "records out with --config.data.on_bad_record=skip"
        )
    if given_away:
        raise ConfigError(
            "the questions give the verdict away without the image: " + "; ".join(given_away) + ". Good and "
            "defective images must come in about equal numbers in training and test: set data.num_train and num_test"
        )
    return StageCost()


def _write_faults(stage: Stage, faults: list[Fault]) -> None:
    """Lists every fault in `faults.jsonl`; without any there is no such file."""
    path = stage.run.folder.path / _FAULTS
    if jax.process_index() > 0:
        return
    if faults:
        replace_file(path, "".join(f"{json.dumps(dataclasses.asdict(fault))}\n" for fault in faults))
    else:
        path.unlink(missing_ok=True)  # of an earlier check


def _ablate(stage: Stage) -> StageCost:
    return ablate(stage, run_stage)


_STAGES: Final[dict[str, Callable[[Stage], StageCost]]] = {
    "plan": plan,
    "prepare": prepare,
    "rows": write_rows,
    **dict.fromkeys(TRAINING_STAGES, train),
    LEARN: learn,
    "check": check,
    "facts": write_facts,
    "evaluate": evaluate,
    "judge": judge,
    "calibrate": calibrate,
    "benchmark": benchmark,
    "inspect": inspect,
    "export": export,
    "ablate": _ablate,
}
