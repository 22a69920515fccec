"""Stage `evaluate`: the metrics of trained stages on the test records."""

from __future__ import annotations

from pathlib import Path

from sage_jax.config import ConfigError
from sage_jax.data import store
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.evaluation.evaluate import ModeDone, TestData, evaluate_stage
from sage_jax.process.signals import Interrupted
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Run, Stage, StageCost
from sage_jax.stages.text_check import check_text


def evaluate(stage: Stage) -> StageCost:
    """Scores the config's stages, as far as they are trained, on the test records.

    Raises:
      ConfigError: None of them is trained, or there are no test records.
    """
    run, log, options = stage.run, stage.log, stage.config.evaluate
    trained = [name for name in options.stages if name in run.trained]
    if not trained:
        raise run.trained.missing(options.stages[-1], wanted_by=stage.name)
    if len(trained) < len(options.stages):
        others = ", ".join(name for name in options.stages if name not in trained)
        log.line(f"not trained in {run.folder.path}, so not scored: {others}")
    tested = _test_data(stage)
    check_text(stage, stage.name)
    log.line(f"{len(tested.records)} test records of {tested.source}, revision {tested.revision[:12]}")
    done: list[ModeDone] = []
    try:
        for name in trained:
            log_changes(stage, name)
            evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
            for mode in evaluate_stage(name, evaluator, tested, log, mesh=run.mesh):
                done.append(mode)  # one by one: a stop leaves those that are done
    except Interrupted as stopped:
        return StageCost(resumed=any(not mode.anew for mode in done), interrupted=str(stopped))
    return StageCost(worked=any(mode.anew for mode in done), resumed=any(not mode.anew for mode in done))


def results_folder(run: Run) -> Path:
    """Where results on the config's data go: the run's folder, or a folder of their own below it.

    `evaluate.name` names the latter. Without, data that no stage was trained on are told by their revision, so that
    results on them neither overwrite nor join those on the run's own data.
    """
    name = run.config.evaluate.name
    if not name:
        trained_on = run.trained.data_revisions
        if not trained_on or run.prepared.revision in trained_on:
            return run.folder.path
        name = f"{run.config.data.source}-{run.prepared.revision[:12]}"
    return run.folder.path / "evaluations" / name


def _test_data(stage: Stage) -> TestData:
    run, data = stage.run, stage.config.data
    records = run.records("test", wanted_by=stage.name)
    if not len(records):
        raise ConfigError(
            "there are no test records: check data.held_out and data.test_fraction, or raise data.num_test"
        )
    return TestData(
        records=ChosenRecords(records, range(len(records))[: stage.config.evaluate.num_records or None]),
        known=store.train_verdicts(run.prepared),
        revision=run.prepared.revision,
        source=f"{data.source} {data.root}".strip(),
        folder=results_folder(run),
    )
