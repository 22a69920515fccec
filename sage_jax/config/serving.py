"""Config of the stage `serve`."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import require, require_above_zero, require_key_variable, require_not_negative


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """The HTTP service. Model, references, questions and thresholds are those of `inspect`.

    Attributes:
      host: Address that it listens on; the default is reached from this machine alone. `0.0.0.0` = all addresses.
      port: Its port; 0 = a free one, which is printed.
      api_key_env: Environment variable that holds the key which requests must bring; "" = no key is asked for.
      model_name: Name of the model in answers and in `/v1/models`; "" = that of the run folder.
      rows: Sizes of the batches that are compiled; what waits is put into the smallest that holds it.
      threads: Batches that the model works on at a time, so that one is read or written while another is computed, and
        a second core computes what one batch leaves idle; of a model on several devices, one.
      batch_wait_ms: Longest time that a batch which is not full waits for requests that may follow, in milliseconds,
        under load; a request that comes alone never waits.
      queue_size: Most images that wait for the model; further requests get 429.
      max_body_mb: Largest body of a request, 10^6 bytes.
      max_pixels: Most pixels of an image, of references too; looked at before an image is decoded.
      max_references: Most references of a request. Each number of references is compiled for by itself.
      max_questions: Most questions of a request.
      max_question_letters: Longest question.
      body_seconds: Longest time for a request to arrive.
      answer_seconds: Longest time for its answer.
      stop_seconds: Longest time that a stop waits for clients to take their answers.
      max_connections: Most connections at a time; further ones get 503.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_env: str = ""
    model_name: str = ""
    rows: tuple[int, ...] = (1, 4, 8, 16)
    threads: int = 2
    batch_wait_ms: float = 3.0
    queue_size: int = 256
    max_body_mb: float = 32.0
    max_pixels: int = 40_000_000
    max_references: int = 4
    max_questions: int = 8
    max_question_letters: int = 500
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    stop_seconds: float = 10.0
    max_connections: int = 128

    def __post_init__(self) -> None:
        require(bool(self.host), "host is empty: give 127.0.0.1 for this machine alone, or 0.0.0.0 for all addresses")
        require(0 <= self.port < 2**16, f"port = {self.port}: give 1 to {2**16 - 1}, or 0 for a free one")
        require_key_variable("api_key_env", self.api_key_env)
        require(bool(self.rows), "rows is empty: give sizes of batches, such as (1, 4, 16)")
        ascending = all(one < other for one, other in zip((0, *self.rows), self.rows, strict=False))
        require(ascending, f"rows = {self.rows}: give numbers above 0, ascending")
        require_not_negative(self, "batch_wait_ms", "max_references", "max_questions")
        require_above_zero(self, "queue_size", "max_body_mb", "max_pixels", "max_question_letters", "max_connections")
        require_above_zero(self, "threads", "body_seconds", "answer_seconds", "stop_seconds")
