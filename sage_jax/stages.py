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

from sage_jax import inspection
from sage_jax.checkpoint import CheckpointError, StageCheckpoints, config_changes, final_config, final_weights
from sage_jax.config import ConfigError
from sage_jax.data import adpl
from sage_jax.data import check as data_check
from sage_jax.data.adpl import DataFaultError
from sage_jax.data.chat import ChatError
from sage_jax.data.encode import ChosenRecords, TreeError
from sage_jax.data.facts import VocabularyError
from sage_jax.data.pipeline import StreamError, make_train_loader, visited_records
from sage_jax.data.readers import ReaderError
from sage_jax.evaluate import evaluate_stage
from sage_jax.files import locked
from sage_jax.hf.faults import WeightsError
from sage_jax.models.sage import copy_text_encoder
from sage_jax.objectives import PreferenceObjective, SftObjective
from sage_jax.parameters import Params, digest, merge
from sage_jax.plots import plot_losses
from sage_jax.preflight import check_finished, check_stages, seed_run
from sage_jax.reference_policy import ReferenceKey, attach_reference, reference_logps
from sage_jax.run import STARTS_FROM, Run, barrier
from sage_jax.run_config import Config
from sage_jax.run_log import RunLog, TrainingDiverged
from sage_jax.signals import Interrupted
from sage_jax.stop_request import stop_if_asked
from sage_jax.subjects import SampleImages, UserImages
from sage_jax.summary import ablation_table, load_summary, print_summary, stage_cost, write_ablation
from sage_jax.train import fit
from sage_jax.validation import Validation, split_by_image

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
    run = Run(config)
    check_stages(run, config.stage_names)
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
        if stage in STARTS_FROM and run.is_trained(stage):
            log.line(f"finished before; delete {run.stage_dir(stage)} to train it again")
            changes = config_changes(final_config(run.stage_dir(stage)), json.dumps(dataclasses.asdict(run.config)))
            made_of = ("seed", "data", "text", "model", stage)
            changes = [change for change in changes if re.split("[.:]", change)[0] in made_of]
            if changes:
                log.line("the config has changed since it was trained:\n  " + "\n  ".join(changes))
            return
        log.resumed = (run.stage_dir(stage) / "checkpoints").is_dir()
        first = jax.process_index() == 0
        with stage_cost(run.summary_path, stage, resumed=lambda: log.resumed) if first else contextlib.nullcontext():
            _STAGES[stage](run, stage, log)
    barrier(f"{stage} done")


def _own_version() -> str:
    try:
        return importlib.metadata.version("sage_jax")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def prepare(run: Run, stage: str, log: RunLog) -> None:
    """Builds the data set and its tokenizer, or finds them built."""
    prepared = run.prepared
    counts = f"{prepared.num_train} training and {prepared.num_test} test records"
    log.line(f"{counts}, {run.chat.vocab_size} tokens, revision {prepared.revision[:12]}")


def train(run: Run, stage: str, log: RunLog) -> None:
    """Trains one stage from the stage it starts from."""
    config = run.config.training(stage)
    start = STARTS_FROM[stage]
    params = run.fresh_params() if start is None else _params_of(run, start, stage, log)
    starts_from = "" if start is None or run.is_given(start) else final_weights(run.stage_dir(start))
    if start == "base" and not run.is_given("base"):  # weights bring their own, or the copy, with them
        params = copy_text_encoder(params)
    stored = records = adpl.open_split(run.prepared, "train")
    kept, held_out = range(len(stored)), []
    if run.config.data.validation_fraction:
        kept, held_out = split_by_image(stored, run.config.data.validation_fraction)
        records = ChosenRecords(stored, kept)
    attach = attach_held_out = None
    objective = SftObjective(config.similarity_weight)
    if stage in ("dpo", "edpo"):
        objective = PreferenceObjective(config.preference)
        drawn = visited_records(len(records), train=config, seed=run.config.seed)
        scored = held_out if config.eval_every else []
        table = reference_logps(
            stored,
            ([*(kept[i] for i in drawn[0]), *scored], [*(kept[i] for i in drawn[1]), *scored]),
            responder=run.responder(params),
            key=ReferenceKey(digest(params), run.prepared.revision, run.chat, run.config.model, run.config.text),
            batch_size=run.config.evaluate.batch_size,
            folder=run.run_dir / "reference_logps",
            run=log,
            mesh=run.mesh,
        )
        attach, attach_held_out = attach_reference(table[list(kept)]), attach_reference(table[held_out])
    validation = None
    if config.eval_every:
        validation = Validation(
            ChosenRecords(stored, held_out),
            objective=objective,
            train=config,
            graphdef=run.graphdef,
            chat=run.chat,
            model=run.config.model,
            text=run.config.text,
            mesh=run.mesh,
            attach=attach_held_out,
        )
    loader = make_train_loader(
        records,
        chat=run.chat,
        model=run.config.model,
        text=run.config.text,
        train=config,
        seed=run.config.seed,
        num_workers=run.config.data.num_workers,
        prefetch=run.config.data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        revision=run.prepared.revision,
    )
    with (
        contextlib.closing(loader),
        StageCheckpoints(run.stage_dir(stage), keep_last=config.keep_last, starts_from=starts_from) as checkpoints,
    ):
        result = fit(
            stage=stage,
            run=log,
            train=config,
            model=merge(run.graphdef, params),
            objective=objective,
            loader=loader,
            mesh=run.mesh,
            seed=run.config.seed,
            checkpoints=checkpoints,
            config_json=json.dumps(dataclasses.asdict(run.config)),
            record_ids=lambda rows: [records[int(row)].record_id for row in rows if row >= 0],
            attach=attach,
            evaluate=validation,
        )
    if result.interrupted:
        done = f"{result.steps} of {config.steps} steps"
        raise Interrupted(f"stage {stage} stopped after {done}; its checkpoint is saved")
    if jax.process_index() == 0:
        plot_losses(log.metrics_path, run.run_dir / "loss.png")


def _params_of(run: Run, name: str, stage: str, log: RunLog) -> Params:
    """Parameters of a finished stage for another one; the log says what has changed since.

    Raises:
      ConfigError: It is not finished, or not what the run takes it for.
    """
    changes = check_finished(run, name, wanted_by=stage) if run.is_trained(name) else []
    if changes:
        log.line(f"the config has changed since {name} was trained:\n  " + "\n  ".join(changes))
    return run.trained_params(name, wanted_by=stage)


def evaluate(run: Run, stage: str, log: RunLog) -> None:
    """Scores the config's stages, as far as they are trained, on the test records.

    Raises:
      ConfigError: None of them is trained, or there are no test records.
    """
    wanted = run.config.evaluate.stages
    trained = [name for name in wanted if run.is_trained(name)]
    if not trained:
        raise run.not_trained(wanted[-1], wanted_by=stage)
    if len(trained) < len(wanted):
        log.line(f"not trained in {run.run_dir}, so not scored: {', '.join(n for n in wanted if n not in trained)}")
    records = adpl.open_split(run.prepared, "test")
    if not len(records):
        raise ConfigError(
            "there are no test records: check data.held_out and data.test_fraction, or raise data.num_test"
        )
    num_records = run.config.evaluate.num_records or len(records)
    shown = ChosenRecords(records, range(len(records))[:num_records])
    for name in trained:
        examination = run.examination(name, _params_of(run, name, stage, log))
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
    trained = [name for name in STARTS_FROM if run.is_trained(name)]
    name = config.stage or (trained or ["base"])[-1]
    if name not in trained:
        raise run.not_trained(name, wanted_by=stage)
    if config.images:
        images = UserImages(config, run.vocabulary)
    else:
        records = adpl.open_split(run.prepared, "test")
        if not len(records):
            raise ConfigError("there are no test records to inspect: name images with --config.inspect.images=PATH")
        images = SampleImages(records, config.max_images)
    examination = run.examination(name, _params_of(run, name, stage, log))
    output = Path(config.output) if config.output else run.run_dir / "inspect"
    result = inspection.inspect(images, examination, stage=name, output=output, log=log, mesh=run.mesh)
    if result.done < len(images):
        raise Interrupted(f"stage inspect stopped after {result.done} of {len(images)} images; their rows are saved")
    if result.totals is not None:
        found = ", ".join(f"{number} {verdict}" for verdict, number in result.totals.verdicts.items())
        log.line(f"{found}; report: {output / 'report.html'}")


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
    "prepare": prepare,
    "base": train,
    "plain": train,
    "sfe": train,
    "dpo": train,
    "edpo": train,
    "check": check,
    "evaluate": evaluate,
    "inspect": inspect,
    "ablate": ablate,
}
