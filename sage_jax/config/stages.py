"""The stages of a run: one table of their names, what they start from and what they learn."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """A stage that trains a model.

    Attributes:
      name: Its name in `stages`, and of its section of the config.
      starts_from: Stage whose model it starts from; None = fresh weights.
      objective: `next_token` learns the best answer, `preference` the order of ranked answers.
    """

    name: str
    starts_from: str | None
    objective: Literal["next_token", "preference"]


TRAINING_STAGES: Final[dict[str, TrainingStage]] = {
    stage.name: stage
    for stage in (
        TrainingStage("base", None, "next_token"),
        TrainingStage("plain", "base", "next_token"),
        TrainingStage("sfe", "base", "next_token"),
        TrainingStage("base_dpo", "base", "preference"),
        TrainingStage("dpo", "sfe", "preference"),
        TrainingStage("edpo", "sfe", "preference"),
        TrainingStage("learn", "base", "preference"),  # in the folder of a version, where the present model is the base
    )
}

STAGES: Final = (
    "plan",
    "check",
    "prepare",
    "rows",
    *TRAINING_STAGES,
    "facts",
    "evaluate",
    "judge",
    "calibrate",
    "benchmark",
    "inspect",
    "serve",
    "watch",
    "export",
    "ablate",
)


LEARN: Final = "learn"
"""The stage that makes a version of a finished run: it trains in a folder of its own, on corrections."""


def starts_from(stage: str) -> str | None:
    """The stage whose model a training stage starts from; None = fresh weights."""
    return TRAINING_STAGES[stage].starts_from
