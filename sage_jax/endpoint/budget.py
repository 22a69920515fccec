"""The budget of a stage that asks an endpoint, and the key that it asks with."""

from __future__ import annotations

import os
import threading
from typing import Final

from sage_jax.errors import UserError

_PRINTABLE: Final = range(0x21, 0x7F)


class BudgetUsedUp(UserError):
    """No further request may be sent; the message names the field."""


class Budget:
    """Requests and tokens that may be spent, shared by threads.

    Each request that is sent counts, those that fail too. What tokens a reply takes is known when it is there: requests
    under way at that moment may exceed the bound.

    Args:
      max_requests: Most requests; 0 = any number.
      max_total_tokens: Most tokens of prompts and replies together, as the endpoint counts them; 0 = any number.
      section: Section of the config that has both fields, for messages.

    Attributes:
      requests: Requests sent.
      total_tokens: Tokens of the replies so far.
    """

    def __init__(self, max_requests: int = 0, max_total_tokens: int = 0, *, section: str = "") -> None:
        self.requests, self.total_tokens = 0, 0
        self._max_requests, self._max_total_tokens, self._section = max_requests, max_total_tokens, section
        self._uncounted = False
        self._lock = threading.Lock()

    def take_request(self) -> None:
        """Counts a request that is to be sent.

        Raises:
          BudgetUsedUp: It must not be sent.
          UserError: There is a bound on tokens, and a reply came without their number.
        """
        with self._lock:
            if self._uncounted and self._max_total_tokens:
                raise UserError(
                    f"{self._section}.max_total_tokens = {self._max_total_tokens} cannot be kept: the endpoint's "
                    f"replies have no usage.total_tokens; set it to 0, and bound {self._section}.max_requests instead"
                )
            used = (
                ("max_requests", self._max_requests, self.requests),
                ("max_total_tokens", self._max_total_tokens, self.total_tokens),
            )
            for name, most, spent in used:
                if most and spent >= most:
                    raise BudgetUsedUp(f"the budget is used up: {self._section}.{name} = {most}")
            self.requests += 1

    def spend(self, total_tokens: int | None) -> None:
        """Counts the tokens of a reply; None where the endpoint does not tell them."""
        with self._lock:
            self._uncounted = self._uncounted or total_tokens is None
            self.total_tokens += total_tokens or 0


def read_key(variable: str, *, field: str) -> str:
    """The key in an environment variable; "" where no variable is named. Only the header of requests may hold it.

    Raises:
      UserError: The variable is not set, or holds what no key is. The message quotes neither name nor content, for a
        key may have been given in place of the name.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{field} names an environment variable that is not set: set it to the endpoint's key")
    if not all(ord(letter) in _PRINTABLE for letter in key):
        raise UserError(f"{field}: the variable holds spaces, line ends or other signs that no key has")
    return key
