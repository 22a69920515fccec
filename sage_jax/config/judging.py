"""Config of the stage `judge`."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import require_above_zero, require_known
from sage_jax.config.endpoint import EndpointConfig
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class JudgeConfig(EndpointConfig):
    """MLE by a language model, and similarity by a sentence model, of the answers that stage `evaluate` wrote.

    Without `base_url` no model is asked, and `sbert_model` alone is used.

    Attributes:
      stages: Evaluated training stages to judge; empty = all.
      repetitions: Judgements of each answer; of two or more, their variance is told.
      sbert_model: Folder of a sentence-transformers model that measures how alike answer and reference answer are;
        "" = not measured. Needs the extra `sbert`.
    """

    stages: tuple[str, ...] = ()
    repetitions: int = 1
    sbert_model: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_above_zero(self, "repetitions")
