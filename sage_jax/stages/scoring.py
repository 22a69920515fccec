"""Stage `evaluate`: the metrics of trained stages on the test records."""

from __future__ import annotations

from sage_jax.config import ConfigError
from sage_jax.data import store
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.evaluation.evaluate import ModeDone, evaluate_stage
from sage_jax.process.signals import Interrupted
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Stage, StageCost
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
    records = store.open_split(run.prepared, "test")
    if not len(records):
        raise ConfigError(
            "there are no test records: check data.held_out and data.test_fraction, or raise data.num_test"
        )
    check_text(stage, stage.name)
    records = ChosenRecords(records, range(len(records))[: options.num_records or None])
    known = store.train_verdicts(run.prepared)
    done: list[ModeDone] = []
    try:
        for name in trained:
            log_changes(stage, name)
            evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
            revision = run.prepared.revision
            for mode in evaluate_stage(
                name, evaluator, records, log, known=known, data_revision=revision, mesh=run.mesh
            ):
                done.append(mode)  # one by one: a stop leaves those that are done
    except Interrupted as stopped:
        return StageCost(resumed=any(not mode.anew for mode in done), interrupted=str(stopped))
    return StageCost(worked=any(mode.anew for mode in done), resumed=any(not mode.anew for mode in done))
