"""Config of the stage `watch`, and of the page for review."""

from __future__ import annotations

import dataclasses

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_address,
    require_key_variable,
    require_not_negative,
)


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """A folder whose new images are inspected as they come. Model, references and thresholds are those of `inspect`.

    Attributes:
      folder: The folder; its subfolders are watched too. A stage `serve` with it watches beside its requests.
      output: Folder of the results; "" = `watch` of the run folder. It must be on a disk of the machine itself.
      poll_seconds: Time between two looks at the folder, which may be on a network drive.
      settle_seconds: Time for which size and time of change of a file must stay as they are before it is read.
      patience_seconds: Time for which a file that cannot be read, such as half an image, is tried again before it is
        called unreadable.
      again: Whether a file whose content was inspected before is inspected again.
      webhook: Address that each result is posted to; "" = none.
      webhook_key_env: Environment variable that holds a key for it, sent as bearer token; "" = none.
      webhook_seconds: Longest time for its reply.
      keep_for_review: Whether images and findings are kept for the page for review.
    """

    folder: str = ""
    output: str = ""
    poll_seconds: float = 1.0
    settle_seconds: float = 1.0
    patience_seconds: float = 30.0
    again: bool = False
    webhook: str = ""
    webhook_key_env: str = ""
    webhook_seconds: float = 10.0
    keep_for_review: bool = True

    def __post_init__(self) -> None:
        require_above_zero(self, "poll_seconds", "webhook_seconds")
        require_not_negative(self, "settle_seconds", "patience_seconds")
        require_address("webhook", self.webhook)
        require_key_variable("webhook_key_env", self.webhook_key_env)
        require(
            not self.webhook_key_env or bool(self.webhook),
            "webhook_key_env names a key, but there is no webhook: give its address in webhook",
        )


@dataclasses.dataclass(frozen=True)
class ReviewConfig:
    """The page where people look at inspections and correct them; stage `serve` has it at `/review`.

    Attributes:
      page: Whether there is one.
      keep_requests: Whether images that come over HTTP are kept for it; those of a watched folder are either way.
      session_hours: Time after which a browser asks for the key again, where the service asks for one.
    """

    page: bool = True
    keep_requests: bool = False
    session_hours: float = 12.0

    def __post_init__(self) -> None:
        require_above_zero(self, "session_hours")
