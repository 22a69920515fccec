"""Config of stage `facts`: who writes the facts about each image, and how they are asked for."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import require, require_above_zero, require_known
from sage_jax.config.endpoint import EndpointConfig
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class FactsConfig(EndpointConfig):
    """Facts that a model writes about each image, once (SFE, step 1); read under `data.facts` = `model`.

    With `base_url` the model of that endpoint writes them in place of `stage`, as the authors' release has it: images
    are sent there.

    Attributes:
      stage: Training stage whose model writes them: `base`, as in the paper, which `model.weights` may stand in for.
      prompt: How they are asked for; `{number}` is `text.max_facts`. "" = a prompt of ours in the language of
        `data.language`, which asks what the object is, which anomalies its kind tends to show and what they would do.
      max_tokens: Longest text of an image's facts that `stage` writes; an endpoint's is `reply_tokens`.
    """

    stage: str = "base"
    prompt: str = ""
    max_tokens: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("stage", (self.stage,), TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_tokens")
        require(bool(self.model) or not self.base_url, "model is empty: give the name of the model at the endpoint")
        try:
            self.prompt.format(number=1)
        except (ValueError, LookupError, AttributeError) as error:
            require(
                False, f"prompt = {self.prompt!r}: {error!r}; the one field is {{number}}, and a brace is written {{{{"
            )
