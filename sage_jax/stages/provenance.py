"""Provenance of a finished stage: its architecture and its start, held against the run's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Final

from sage_jax.config import (
    TRAINING_STAGES,
    Config,
    ConfigChange,
    ConfigError,
    config_changes,
    from_config_dict,
    starts_from,
)
from sage_jax.stages.run import Run, Stage
from sage_jax.training.finished import final_config, final_start, final_weights

_FREE: Final = (
    "model.weights",  # its sizes are compared
    "model.compute_dtype",
    "model.attention",
    "model.remat",
    "model.scan_unroll",
    "model.max_tiles",
    "text.vocab_size",  # of a tokenizer that is trained; a finished stage's stays
    "text.max_facts",
    "text.max_fact_tokens",
    "text.max_answer_tokens",
    "text.buckets",
    "text.num_shapes",
)
"""What may differ from the config that a stage was trained with: how it computes, and how much it is given."""


def changes_since_training(stage: str, stage_dir: Path, config: Config, *, wanted_by: str) -> list[ConfigChange]:
    """Permitted changes of `model` and `text` since a finished stage was trained.

    A stage that trains on may do so with other texts, and with another fusion than `base`, which trains none.

    Raises:
      ConfigError: One differs that makes it another model, or another way to talk to it.
    """
    trained = json.loads(final_config(stage_dir))
    try:
        # Through the dataclasses, so that an option which is younger than the stage has its default.
        before = from_config_dict({name: trained[name] for name in ("model", "text") if name in trained})
    except ConfigError as error:
        raise ConfigError(f"{stage_dir} was trained by another version: {error}") from None
    old, new = (
        json.dumps({"model": dataclasses.asdict(each.model), "text": dataclasses.asdict(each.text)})
        for each in (before, config)
    )
    free = [
        *_FREE,
        *(["text."] if wanted_by in TRAINING_STAGES else []),
        *(["model.fusion."] if stage == "base" else []),
    ]
    changes = config_changes(old, new) if "model" in trained else []
    refused = [change for change in changes if not change.path.startswith(tuple(free))]
    if refused:
        listed = "; ".join(map(str, refused))
        raise ConfigError(
            f"stage {wanted_by!r} needs stage {stage!r}, which was trained with another config: {listed}. Give these "
            f"fields as they were, or delete {stage_dir} to train it anew"
        )
    return changes


def require_current(stage: str, stage_dir: Path, start: str, start_dir: Path) -> None:
    """Checks that a finished stage was trained from the finished start that is there now.

    Raises:
      ConfigError: Its start has been trained anew since.
    """
    now, then = final_weights(start_dir), final_start(stage_dir)
    if now and then and now != then:
        raise ConfigError(
            f"stage {stage!r} was trained from an earlier {start!r} than the one in {start_dir}: "
            f"delete {stage_dir} to train it again"
        )


def check_finished(run: Run, name: str, *, wanted_by: str) -> list[ConfigChange]:
    """Checks that a finished stage is still the model that the config describes; gives the permitted changes.

    Raises:
      ConfigError: The config makes another model of it, or its own start has been trained anew since.
    """
    if run.trained.is_imported(name):
        return []
    check_start(run, name)
    return changes_since_training(name, run.folder.stage(name), run.config, wanted_by=wanted_by)


def check_start(run: Run, name: str) -> None:
    """Checks that a finished stage was trained from the start that is there now.

    Raises:
      ConfigError: Its start has been trained anew since.
    """
    start = starts_from(name)
    if start is not None and not run.trained.is_imported(start) and start in run.trained:
        require_current(name, run.folder.stage(name), start, run.folder.stage(start))


def log_changes(stage: Stage, name: str) -> None:
    """Logs the changes of the config since a finished stage was trained, which this stage reads.

    Raises:
      ConfigError: It is not the model that the config describes.
    """
    run = stage.run
    changes = check_finished(run, name, wanted_by=stage.name) if name in run.trained else []
    if changes:
        listed = "\n  ".join(map(str, changes))
        stage.log.line(f"the config has changed since {name} was trained:\n  {listed}")
