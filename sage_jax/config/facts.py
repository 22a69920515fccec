"""Config of stage `facts`: who writes the facts about each image, and how they are asked for."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_address,
    require_key_variable,
    require_known,
    require_not_negative,
)
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class FactsConfig:
    """Facts that a model writes about each image, once (SFE, step 1); read under `data.facts` = `model`.

    Attributes:
      stage: Training stage whose model writes them: `base`, as in the paper, which `model.weights` may stand in for.
      prompt: How they are asked for; `{number}` is `text.max_facts`. "" = a prompt of ours in the language of
        `data.language`, which asks what the object is, which anomalies its kind tends to show and what they would do.
      max_tokens: Longest text of an image's facts.
      base_url: Address of an OpenAI-compatible endpoint whose model writes them in place of `stage`, as the authors'
        release does it, such as `http://localhost:8000/v1`: images are sent there. "" = none.
      model: Name of the model at the endpoint.
      api_key_env: Environment variable that holds the endpoint's key, which is sent and never kept; "" = no key.
      concurrency: Requests under way at a time.
      timeout_seconds: Longest time for a reply.
      retries: Times that a request is sent again after 429, 5xx, a lost connection or none, and a time-out.
      max_requests: Most requests that one start of the stage sends, those that fail too; 0 = any number.
    """

    stage: str = "base"
    prompt: str = ""
    max_tokens: int = 96
    base_url: str = ""
    model: str = ""
    api_key_env: str = ""
    concurrency: int = 8
    timeout_seconds: float = 120.0
    retries: int = 5
    max_requests: int = 0

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,), TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_tokens", "concurrency", "timeout_seconds")
        require_not_negative(self, "retries", "max_requests")
        require_address("base_url", self.base_url)
        require_key_variable("api_key_env", self.api_key_env)
        require(bool(self.model) or not self.base_url, "model is empty: give the name of the model at the endpoint")
        try:
            self.prompt.format(number=1)
        except (ValueError, LookupError, AttributeError) as error:
            require(
                False, f"prompt = {self.prompt!r}: {error!r}; the one field is {{number}}, and a brace is written {{{{"
            )
