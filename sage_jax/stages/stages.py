"""The stages of a run, in the order that the config gives them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import jax
import rich.console

from sage_jax.config import TRAINING_STAGES, Config, ConfigError, DecoderConfig, DecodingConfig, starts_from
from sage_jax.data import check as data_check
from sage_jax.data import store
from sage_jax.data.adpl.facts import VocabularyError
from sage_jax.data.sources.readers import ReaderError
from sage_jax.data.store import DataFaultError
from sage_jax.data.stream.pipeline import StreamError
from sage_jax.data.trees.chat import ChatError
from sage_jax.data.trees.encode import ChosenRecords, TreeError
from sage_jax.evaluation.evaluate import evaluate_stage
from sage_jax.hf.config import read_config
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.upload import UploadError
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection.images import SampleImages, UserImages
from sage_jax.journal.run_log import RunLog, TrainingDiverged
from sage_jax.journal.summary import ablation_table, load_summary, print_summary, stage_cost, write_ablation
from sage_jax.parameters import digest
from sage_jax.plan.report import plans_json, print_plans
from sage_jax.plan.stage_plan import plan_stages
from sage_jax.process.allocator import keep_freed_memory
from sage_jax.process.compile_cache import keep_compiled_programs
from sage_jax.process.files import locked
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.stages.export import Exported
from sage_jax.stages.export import export as export_model
from sage_jax.stages.preflight import check_stages, seed_run
from sage_jax.stages.run import Run, barrier
from sage_jax.stages.training import check_text, log_changes, train
from sage_jax.training.checkpoint import CheckpointError, config_changes, final_config

USER_ERRORS: Final = (
    ConfigError,
    DataFaultError,
    ReaderError,
    VocabularyError,
    ChatError,
    TreeError,
    StreamError,
    CheckpointError,
    WeightsError,
    UploadError,
    TrainingDiverged,
)
"""What a user can mend, each with a message that says how."""

PACKAGES: Final = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "transformers", "numpy")


def run_stages(config: Config) -> None:
    """Runs the config's stages in order and prints the summary.

    Raises:
      Interrupted: A signal stopped a stage, or came before one; the same command goes on where it stopped.
      USER_ERRORS: What the user can mend.
    """
    keep_compiled_programs(config.data.cache_dir)
    run = Run(_without_weights(config) if set(config.stage_names) == {"plan"} else config)
    check_stages(run, config.stage_names)
    keep_freed_memory()
    with contextlib.ExitStack() as held:
        try:
            if jax.process_index() == 0:
                held.enter_context(locked(run.run_dir))
            run.write_json("config.json", dataclasses.asdict(run.config))
        except BlockingIOError:
            raise ConfigError(
                f"run_dir = {config.run_dir!r}: another process works in it; wait for it, or give another run_dir"
            ) from None
        except OSError as error:
            raise ConfigError(f"run_dir = {config.run_dir!r} cannot be written: {error.strerror or error}") from None
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
        found = read_config(folder)
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
    run.write_json("versions.json", {"python": platform.python_version(), "sage_jax": _own_version(), **versions})
    for stage in run.config.stage_names:
        stop_if_asked(f"stopped before stage {stage}")
        _run_stage(run, stage)
    if jax.process_index() == 0:
        print_summary(run.summary_path)


def _run_stage(run: Run, stage: str) -> None:
    """Runs a stage, its cost measured; a training stage that has finished is left as it is, cost and all."""
    with RunLog(run.run_dir, stage) as log:
        if run.is_given(stage):
            log.line(f"not trained: {run.config.model.weights} stands in for it")
            return
        if stage in TRAINING_STAGES and run.is_trained(stage):
            log.line(f"finished before; delete {run.stage_dir(stage)} to train it again")
            changes = config_changes(final_config(run.stage_dir(stage)), json.dumps(dataclasses.asdict(run.config)))
            made_of = ("seed", "data", "text", "model", stage)
            changes = [change for change in changes if re.split("[.:]", change)[0] in made_of]
            if changes:
                log.line("the config has changed since it was trained:\n  " + "\n  ".join(changes))
            return
        log.resumed = (run.stage_dir(stage) / "checkpoints").is_dir()
        cost = contextlib.nullcontext()
        if jax.process_index() == 0:
            cost = stage_cost(
                run.summary_path,
                stage,
                resumed=lambda: log.resumed,
                worked=lambda: log.worked,
                shares=lambda: log.shares,
                counts=lambda: log.counts,
            )
        with cost:
            _STAGES[stage](run, stage, log)
    barrier(f"{stage} done")


def _own_version() -> str:
    try:
        return importlib.metadata.version("sage_jax")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def plan(run: Run, stage: str, log: RunLog) -> None:
    """Prints what training stages take on devices that need not be there, and writes it to `plan.json`."""
    config = run.config
    if run.checkpoint and not config.plan.vocab_size:
        vocab_size = run.checkpoint.config.vocab_size
        config = dataclasses.replace(config, plan=dataclasses.replace(config.plan, vocab_size=vocab_size))
    if jax.process_index() == 0:
        plans = plan_stages(config, log.line)
        print_plans(config, plans)
        run.write_json("plan.json", plans_json(config, plans))


def prepare(run: Run, stage: str, log: RunLog) -> None:
    """Builds the data set and its tokenizer, or finds them built."""
    prepared = run.prepared
    counts = f"{prepared.num_train} training and {prepared.num_test} test records"
    log.line(f"{counts}, {run.chat.vocab_size} tokens, revision {prepared.revision[:12]}")
    check_text(run, log)


def evaluate(run: Run, stage: str, log: RunLog) -> None:
    """Scores the config's stages, as far as they are trained, on the test records.

    Raises:
      ConfigError: None of them is trained, or there are no test records.
    """
    log.worked = False  # until a mode is scored
    wanted = run.config.evaluate.stages
    trained = [name for name in wanted if run.is_trained(name)]
    if not trained:
        raise run.not_trained(wanted[-1], wanted_by=stage)
    if len(trained) < len(wanted):
        log.line(f"not trained in {run.run_dir}, so not scored: {', '.join(n for n in wanted if n not in trained)}")
    records = store.open_split(run.prepared, "test")
    if not len(records):
        raise ConfigError(
            "there are no test records: check data.held_out and data.test_fraction, or raise data.num_test"
        )
    check_text(run, log, stage)
    num_records = run.config.evaluate.num_records or len(records)
    shown = ChosenRecords(records, range(len(records))[:num_records])
    for name in trained:
        log_changes(run, name, stage, log)
        examination = run.examination(name, run.answering_params(name, wanted_by=stage), use_up=True)
        evaluate_stage(name, examination, shown, log, data_revision=run.prepared.revision, mesh=run.mesh)


def check(run: Run, stage: str, log: RunLog) -> None:
    """Reads the data set and prints its counts and every fault.

    Raises:
      ConfigError: There are faults, and `data.on_bad_record` is `fail`.
    """
    report = data_check.check(run.config.data, run.config.seed)
    if jax.process_index() == 0:
        data_check.print_report(report)
    if report.faults and run.config.data.on_bad_record == "fail":
        raise ConfigError(
            f"{len(report.faults)} faults in the data set: mend them, or leave bad records out with "
            "--config.data.on_bad_record=skip"
        )


def inspect(run: Run, stage: str, log: RunLog) -> None:
    """Inspects the user's images, or a sample of the test records."""
    config = run.config.inspect
    trained = [name for name in TRAINING_STAGES if run.is_trained(name)]
    name = config.stage or (trained or ["base"])[-1]
    if name not in trained:
        raise run.not_trained(name, wanted_by=stage)
    if config.images:
        images = UserImages(config, run.vocabulary)
        if unmatched := images.unmatched():
            log.line(unmatched)
    else:
        records = store.open_split(run.prepared, "test")
        if not len(records):
            raise ConfigError("there are no test records to inspect: name images with --config.inspect.images=PATH")
        images = SampleImages(records, config.max_images)
    log_changes(run, name, stage, log)
    examination = run.examination(name, run.answering_params(name, wanted_by=stage), use_up=True)
    output = Path(config.output) if config.output else run.run_dir / "inspect"
    result = inspection.inspect(images, examination, stage=name, output=output, log=log, mesh=run.mesh)
    if result.done < len(images):
        raise Interrupted(f"stage inspect stopped after {result.done} of {len(images)} images; their rows are saved")
    if result.totals is not None:
        found = ", ".join(f"{number} {verdict}" for verdict, number in result.totals.verdicts.items())
        log.line(f"{found}; report: {output / 'report.html'}")


def export(run: Run, stage: str, log: RunLog) -> None:
    """Writes a trained stage as a folder that transformers loads, with a model card."""
    trained = [name for name in TRAINING_STAGES if run.is_trained(name)]
    name = run.config.export.stage or trained[-1]
    log_changes(run, name, stage, log)
    # The scores are under the hash of the weights as evaluation keeps them; those are gone before the others come.
    scored_as = digest(run.answering_params(name, wanted_by=stage))
    params = run.trained_params(name, wanted_by=stage)
    chain = [name]
    while (start := starts_from(chain[0])) is not None:
        chain.insert(0, start)
    exported = Exported(
        run.examination(name, params, scored_as=scored_as),
        name,
        tokenizer=run.tokenizer_dir,
        base=run.weights,
        trained={part: run.stage_dir(part) for part in chain if not run.is_given(part)},
    )
    export_model(params, exported, log=log)


def ablate(run: Run, stage: str, log: RunLog) -> None:
    """Trains and scores the ablation's models for each seed in a run of its own; writes the table over seeds."""
    config = run.config
    summaries = {}
    for seed in config.ablate.seeds:
        one = seed_run(run, seed)
        log.line(f"seed {seed}")
        one.write_json("config.json", dataclasses.asdict(one.config))
        for name in ("prepare", *config.ablate.stages, "evaluate"):
            stop_if_asked(f"stopped before stage {name} of seed {seed}")
            _run_stage(one, name)
        summaries[seed] = load_summary(one.summary_path)
    if jax.process_index() == 0:
        console = rich.console.Console(width=max(100, rich.console.Console().width))
        console.print(ablation_table(write_ablation(run.run_dir, summaries)))


_STAGES: dict[str, Callable[[Run, str, RunLog], None]] = {
    "plan": plan,
    "prepare": prepare,
    "base": train,
    "plain": train,
    "sfe": train,
    "dpo": train,
    "edpo": train,
    "check": check,
    "evaluate": evaluate,
    "inspect": inspect,
    "export": export,
    "ablate": ablate,
}
