"""Config of the stage `judge`."""

from __future__ import annotations

import dataclasses
import math

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
class JudgeConfig:
    """MLE by a language model, and similarity by a sentence model, of the answers that stage `evaluate` wrote.

    Attributes:
      stages: Evaluated training stages to judge; empty = all.
      base_url: Address of an OpenAI-compatible endpoint, up to and without `/chat/completions`, such as
        `http://localhost:8000/v1`; "" = none is asked, and `sbert_model` alone is used.
      model: Name of the model at the endpoint.
      api_key_env: Environment variable that holds the endpoint's key, which is sent and never kept; "" = no key.
      temperature: Of the judge; below 0 = not sent, for endpoints that take none.
      seed: Of the judge's first repetition, one more for each further one; below 0 = not sent.
      repetitions: Judgements of each answer; of two or more, their variance is told.
      reply_tokens: Longest reply, sent as `max_tokens`; 0 = not sent. Models that think first need thousands.
      asks: Times that a judgement is asked for until the reply has three marks.
      concurrency: Requests under way at a time.
      timeout_seconds: Longest time for a reply.
      retries: Times that a request is sent again after 429, 5xx, a lost connection or none, and a time-out.
      max_requests: Most requests that one start of the stage sends, those that fail too; 0 = any number.
      max_total_tokens: Most tokens of prompts and replies together, likewise; 0 = any number.
      sbert_model: Folder of a sentence-transformers model that measures how alike answer and reference answer are;
        "" = not measured. Needs the extra `sbert`.
    """

    stages: tuple[str, ...] = ()
    base_url: str = ""
    model: str = ""
    api_key_env: str = ""
    temperature: float = 0.0
    seed: int = 0
    repetitions: int = 1
    reply_tokens: int = 1024
    asks: int = 3
    concurrency: int = 8
    timeout_seconds: float = 120.0
    retries: int = 5
    max_requests: int = 0
    max_total_tokens: int = 0
    sbert_model: str = ""

    def __post_init__(self) -> None:
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_address("base_url", self.base_url)
        require_key_variable("api_key_env", self.api_key_env)
        require(math.isfinite(self.temperature), f"temperature = {self.temperature}: give a finite number")
        require_above_zero(self, "repetitions", "asks", "concurrency", "timeout_seconds")
        require_not_negative(self, "reply_tokens", "retries", "max_requests", "max_total_tokens")
