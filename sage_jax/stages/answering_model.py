"""The model of a run, ready to inspect: its last trained stage, with thresholds, familiarity and facts."""

from __future__ import annotations

from sage_jax.inspection.inspection_model import InspectionModel
from sage_jax.stages.calibration import threshold_of
from sage_jax.stages.facts import FactTeller
from sage_jax.stages.familiarity import familiarity_of
from sage_jax.stages.provenance import check_finished
from sage_jax.stages.run import Run


def inspection_model(run: Run, stage: str = "", *, wanted_by: str) -> InspectionModel:
    """The model of a training stage for images with and without references, however many.

    Args:
      stage: "" = the last trained one.
      wanted_by: Who asks, for messages.

    Raises:
      ConfigError: The stage is not trained, or its files have faults.
    """
    name = run.trained.to_answer(stage, wanted_by=wanted_by)
    check_finished(run, name, wanted_by=wanted_by)
    evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=wanted_by), use_up=True)
    config = evaluator.config
    both = (False, True)
    return InspectionModel(
        evaluator,
        name,
        {each: threshold_of(config, evaluator, name, with_reference=each, as_configured=False) for each in both},
        {each: familiarity_of(config, evaluator, name, with_reference=each) for each in both},
        FactTeller(run) if config.data.facts == "model" and config.inspect.facts == "data" else None,
    )
