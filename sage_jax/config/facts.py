"""Config of stage `facts`: who writes the facts about each image, and how they are asked for."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import require, require_above_zero, require_known
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class FactsConfig:
    """Facts that a model writes about each image, once (SFE, step 1); read under `data.facts` = `model`.

    Attributes:
      stage: Training stage whose model writes them: `base`, as in the paper, which `model.weights` may stand in for.
      prompt: How they are asked for; `{number}` is `text.max_facts`. "" = a prompt of ours, which asks what the object
        is, which anomalies its kind tends to show and what they would do.
      max_tokens: Longest text of an image's facts.
    """

    stage: str = "base"
    prompt: str = ""
    max_tokens: int = 96

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,), TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_tokens")
        try:
            self.prompt.format(number=1)
        except (ValueError, LookupError, AttributeError) as error:
            require(
                False, f"prompt = {self.prompt!r}: {error!r}; the one field is {{number}}, and a brace is written {{{{"
            )
