"""Whether a finished stage is what the run now takes it for: of the same architecture, and from today's start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Final

from sage_jax.config import TRAINING_STAGES, Config, ConfigError, from_config_dict
from sage_jax.training.checkpoint import config_changes, final_config, final_start, final_weights

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


def changes_since_training(stage: str, stage_dir: Path, config: Config, *, wanted_by: str) -> list[str]:
    """Fields of `model` and `text` that differ from a finished stage's and may, one `field: old -> new` each.

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
    told = changes = config_changes(old, new) if "model" in trained else []
    refused = [change for change in changes if not change.startswith(tuple(free))]
    if refused:
        listed = "; ".join(refused)
        raise ConfigError(
            f"stage {wanted_by!r} needs stage {stage!r}, which was trained with another config: {listed}. Give these "
            f"fields as they were, or delete {stage_dir} to train it anew"
        )
    return told


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
