"""Faults of requests, each with its HTTP status and one message."""

from __future__ import annotations

from typing import Final

from sage_jax.errors import UserError

KINDS: Final = {
    400: "bad_request",
    401: "no_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unknown_content_type",
    422: "unusable_input",
    429: "queue_full",
    499: "client_gone",
    500: "internal",
    503: "not_ready",
    504: "no_answer_in_time",
}
"""A word for each status that the service gives."""


class RequestFault(UserError):
    """A request that is not answered.

    Attributes:
      status: HTTP status.
      retry_after: Seconds after which it may be sent again; 0 = it need not be.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after

    @property
    def kind(self) -> str:
        """A word for the fault."""
        return KINDS.get(self.status, "error")
