"""Checks of all stages before the first one works, so that none fails after hours of the others."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Final

from sage_jax.config import LEARN, TRAINING_STAGES, Config, ConfigError, config_changes, starts_from
from sage_jax.inspection.images import References, find_images
from sage_jax.models.attention.select import attention_of
from sage_jax.process.several import gather_json
from sage_jax.process.version import own_version
from sage_jax.stages.ablation import seed_run, variants
from sage_jax.stages.benchmark import check_benchmark
from sage_jax.stages.calibration import check_calibration
from sage_jax.stages.export import check_export
from sage_jax.stages.judging import check_judge
from sage_jax.stages.learning import check_learning
from sage_jax.stages.provenance import check_finished, check_start
from sage_jax.stages.run import Run
from sage_jax.stages.structure import shapes_without_tokenizer
from sage_jax.stages.trained import FIRST_VERDICTS
from sage_jax.training.loop import check_batch_size
from sage_jax.training.optim import partition

_COMPUTING: Final = ("evaluate", "calibrate", "benchmark", "inspect", "serve", "watch", "ablate")
"""Stages that run a model, beside those that train one."""


def check_same_config(config: Config) -> None:
    """Checks that all processes were given the same config, and have the same version of this package.

    Raises:
      ConfigError: They do not; the message names what differs.
    """
    every = [json.dumps(each) for each in gather_json({**dataclasses.asdict(config), "sage_jax": own_version()})]
    for process, other in enumerate(every):
        if changes := config_changes(every[0], other):
            listed = "\n  ".join(map(str, changes))
            raise ConfigError(
                f"process {process} of {len(every)} has another config than process 0:\n  {listed}\n"
                "Start all of them with the same command"
            )


def check_stages(run: Run, stages: Sequence[str]) -> None:
    """Checks, before any work, that each stage finds the model and images that it needs and can train as configured.

    Raises:
      ConfigError: One does not; the message names the field, or the stages to run.
      WeightsError: The model cannot be exported.
      UploadError: There is no way to the hub.
    """
    if any(stage in _COMPUTING or stage in TRAINING_STAGES for stage in stages):
        attention_of(run.config.model)
    _check_starts(run, stages)
    ablated = run.config.ablate.stages if "ablate" in stages else ()
    for variant, seed in itertools.product(variants(run.config), run.config.ablate.seeds) if ablated else ():
        one = seed_run(run, seed, variant)
        try:
            if run.config.data.facts != "model":  # else the ablation has them written where they are wanted
                _check_starts(one, ablated)
        except ConfigError as error:
            raise ConfigError(f"ablate.stages = {ablated}, seed {seed}: {error}") from None
    _check_finished(run, stages)
    training = [stage for stage in stages if stage in TRAINING_STAGES and stage not in run.trained]
    _check_training(run, [*training, *(stage for stage in ablated if not run.trained.is_imported(stage))])
    if "export" in stages:
        check_export(run.config, trains=bool(training))
    if "calibrate" in stages:
        check_calibration(run.config)
    if LEARN in stages and run.trained.last() and not {*stages} & {*TRAINING_STAGES} - {LEARN}:
        check_learning(run)
    if "judge" in stages:
        check_judge(run.config, stages)
    if "benchmark" in stages:
        check_benchmark(run.config)
    if "inspect" in stages:
        References(run.config.inspect.references)
        if run.config.inspect.images:
            find_images(run.config.inspect.images)


def _check_finished(run: Run, stages: Sequence[str]) -> None:
    """Checks the finished stages that this run leaves as they are, starts from, scores or asks."""
    finished = {name for name in run.trained if not run.trained.is_imported(name)}
    anew = {*stages} & {*TRAINING_STAGES} - finished
    for stage in stages:
        used = {
            "evaluate": run.config.evaluate.stages,
            "inspect": (run.config.inspect.stage,),
            "serve": (run.config.inspect.stage,),
            "watch": (run.config.inspect.stage,),
            "calibrate": (run.config.inspect.stage,),
            "benchmark": (run.config.benchmark.stage,),
            "export": (run.config.export.stage,),
        }.get(stage, ())
        if stage in anew:
            used = (starts_from(stage),)
        for name in (each for each in used if each in finished):
            check_finished(run, name, wanted_by=stage)
        for name in {stage, *used} & finished:
            check_start(run, name)
            if starts_from(name) in anew:
                raise ConfigError(
                    f"stage {name!r} was trained from a {starts_from(name)!r} that this run trains anew: "
                    f"delete {run.folder.stage(name)} to train it again too"
                )


def _check_starts(run: Run, stages: Sequence[str]) -> None:
    """Checks that each stage finds the model that it starts from, or that it scores."""
    trained, before = {*run.trained}, set[str]()
    for stage in stages:
        start = starts_from(stage) if stage in TRAINING_STAGES and stage != LEARN else None
        if start is not None and start not in trained and stage not in trained:
            raise run.trained.missing(start, wanted_by=stage)
        writes = (stage == "facts" or _needs_facts(run, stage)) and not run.config.facts.base_url
        if writes and run.config.facts.stage not in trained and stage not in trained:
            raise run.trained.missing(run.config.facts.stage, wanted_by=stage)
        if _needs_facts(run, stage) and stage not in trained and "facts" not in before and not _has_facts(run):
            raise ConfigError(
                f"data.facts = 'model': stage {stage!r} reads facts that a model has written about each image: put "
                f"'facts' before it, after {run.config.facts.stage!r}{_where_facts_are(run)}"
            )
        before.add(stage)
        if stage in ("evaluate", "calibrate", "benchmark", "inspect", "serve", "export") and not trained:
            raise run.trained.missing(FIRST_VERDICTS, wanted_by=stage)
        if stage == "evaluate" and not trained & {*run.config.evaluate.stages}:
            raise run.trained.missing(run.config.evaluate.stages[-1], wanted_by=stage)
        if stage in ("calibrate", "inspect", "serve") and run.config.inspect.stage not in ("", *trained):
            raise run.trained.missing(run.config.inspect.stage, wanted_by=stage)
        if stage == "benchmark" and run.config.benchmark.stage not in ("", *trained):
            raise run.trained.missing(run.config.benchmark.stage, wanted_by=stage)
        if stage == "export" and run.config.export.stage not in ("", *trained):
            raise run.trained.missing(run.config.export.stage, wanted_by=stage)
        if stage in TRAINING_STAGES:
            trained.add(stage)


def _needs_facts(run: Run, stage: str) -> bool:
    """Whether a stage reads facts of the data set that a model is to have written."""
    reads = stage == "evaluate" or (stage in TRAINING_STAGES and run.reads_written_facts(stage))
    return reads and run.config.data.facts == "model"


def _has_facts(run: Run) -> bool:
    """Whether the model that writes facts has written some; whether they are all, the stage that reads them tells."""
    return _is_writer_there(run) and run.facts.book.path.is_file()


def _where_facts_are(run: Run) -> str:
    """The file that the facts are looked for in; "" while nothing can write them."""
    return f"; there is no {run.facts.book.path}" if _is_writer_there(run) else ""


def _is_writer_there(run: Run) -> bool:
    return bool(run.config.facts.base_url) or run.config.facts.stage in run.trained


def _check_training(run: Run, stages: Sequence[str]) -> None:
    """Checks that freeze patterns match parameters and that the devices share the batches."""
    shapes = shapes_without_tokenizer(run.config) if stages else {}
    for stage in dict.fromkeys(stages):
        train = run.config.training(stage)
        check_batch_size(stage, train, run.mesh)
        try:
            partition(shapes, train.freeze)
        except ConfigError as error:
            raise ConfigError(f"{stage}.{error}") from None
