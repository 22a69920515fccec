"""Config of an OpenAI-compatible endpoint, which several stages ask."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_address,
    require_key_variable,
    require_not_negative,
)


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible endpoint, and how it is asked.

    Attributes:
      base_url: Address of the endpoint, up to and without `/chat/completions`, such as `http://localhost:8000/v1`; "" =
        none is asked.
      model: Name of the model at the endpoint.
      api_key_env: Environment variable that holds the endpoint's key, which is sent and never kept; "" = no key.
      temperature: Of the model; below 0 = not sent, for endpoints that take none.
      seed: Of the model, for repetitions one more each; below 0 = not sent.
      reply_tokens: Longest reply, sent as `max_tokens`; 0 = not sent. Models that think first need thousands.
      asks: Times that a model is asked until its reply has the form that is asked for.
      concurrency: Requests under way at a time.
      timeout_seconds: Longest time for a reply.
      retries: Times that a request is sent again after 429, 5xx, a lost connection or none, and a time-out.
      max_requests: Most requests that one start of the stage sends, those that fail too; 0 = any number.
      max_total_tokens: Most tokens of prompts and replies together, likewise; 0 = any number.
    """

    base_url: str = ""
    model: str = ""
    api_key_env: str = ""
    temperature: float = 0.0
    seed: int = 0
    reply_tokens: int = 1024
    asks: int = 3
    concurrency: int = 8
    timeout_seconds: float = 120.0
    retries: int = 5
    max_requests: int = 0
    max_total_tokens: int = 0

    def __post_init__(self) -> None:
        require_address("base_url", self.base_url)
        require_key_variable("api_key_env", self.api_key_env)
        require(math.isfinite(self.temperature), f"temperature = {self.temperature}: give a finite number")
        require_above_zero(self, "asks", "concurrency", "timeout_seconds")
        require_not_negative(self, "reply_tokens", "retries", "max_requests", "max_total_tokens")

    def sent(self, repetition: int = 0) -> dict[str, Any]:
        """What goes with each request beside its messages, as the fields of a `ChatRequest`; None = not sent."""
        return {
            "model": self.model,
            "temperature": self.temperature if self.temperature >= 0 else None,
            "seed": self.seed + repetition if self.seed >= 0 else None,
            "reply_tokens": self.reply_tokens,
            "repetition": repetition,
        }
