"""Stage `inspect`: a report on the user's images, or on a sample of the test records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sage_jax.config import ConfigError
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection.images import Images, SampleImages, UserImages
from sage_jax.process.signals import Interrupted
from sage_jax.stages.calibration import threshold_of
from sage_jax.stages.facts import told_images
from sage_jax.stages.familiarity import familiarity_of
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Run, Stage, StageCost
from sage_jax.stages.versions import root_of


def inspect(stage: Stage) -> StageCost:
    """Inspects the user's images, or a sample of the test records.

    Raises:
      ConfigError: The stage that is to answer is not trained, or there are no images.
    """
    run, log, options = stage.run, stage.log, stage.config.inspect
    name = run.trained.to_answer(options.stage, wanted_by=stage.name)
    images = _images(stage)
    log_changes(stage, name)
    try:
        images = told_images(stage, images)
    except Interrupted as stopped:
        return StageCost(interrupted=str(stopped))
    evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
    output = inspection_folder(run)
    with_reference = bool(options.references) or not options.images
    threshold = threshold_of(stage.config, evaluator, name, with_reference=with_reference)
    log.line(f"threshold {threshold.value:g}; promise: {threshold.promise}")
    familiarity = familiarity_of(stage.config, evaluator, name, with_reference=with_reference)
    decided = dataclasses.replace(options, threshold=threshold.value)
    config = dataclasses.replace(stage.config, inspect=decided)
    deciding = evaluator.responder.decoding_with(verdict_threshold=threshold.value, joint_score=threshold.joint_score)
    evaluator = dataclasses.replace(evaluator, config=config, responder=deciding, shifts=threshold.shifts)
    result = inspection.inspect(
        images,
        evaluator,
        stage=name,
        output=output,
        log=log,
        mesh=run.mesh,
        promise=threshold.promise,
        familiarity=familiarity,
    )
    cost = StageCost(resumed=result.resumed, counts=dict(result.counts))
    if result.done < len(images):
        return StageCost(
            resumed=cost.resumed,
            counts=cost.counts,
            interrupted=f"stage inspect stopped after {result.done} of {len(images)} images; their rows are saved",
        )
    if result.totals is not None:
        found = ", ".join(f"{number} {verdict}" for verdict, number in result.totals.verdicts.items())
        log.line(f"{found}; report: {output / 'report.html'}")
    return cost


def inspection_folder(run: Run) -> Path:
    """Folder of the results: by default that of the run, whichever version of it answers."""
    return Path(run.config.inspect.output) if run.config.inspect.output else root_of(run.folder.path) / "inspect"


def _images(stage: Stage) -> Images:
    run, options = stage.run, stage.config.inspect
    if options.images:
        images = UserImages(options, run.vocabulary, stage.config.data)
        if unmatched := images.unmatched():
            stage.log.line(unmatched)
        return images
    records = run.records("test", wanted_by=stage.name)
    if not len(records):
        raise ConfigError("there are no test records to inspect: name images with --config.inspect.images=PATH")
    return SampleImages(records, options.max_images)
