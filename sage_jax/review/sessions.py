"""Signing in with the service's key: a browser gets a cookie for the page alone, which names an end and no key."""

from __future__ import annotations

import hashlib
import hmac
import time
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.types import Scope

COOKIE: Final = "sage_review"
PATH: Final = "/review"
OPEN: Final = (PATH, f"{PATH}/", f"{PATH}/session")
"""Paths that ask for no key: the page without its content, and where one signs in."""
STATIC: Final = f"{PATH}/static/"


class Sessions:
    """Cookies signed with the key; the service keeps nothing, so that a restart signs nobody out.

    Args:
      api_key: The service's key; "" = none is asked for.
      hours: Life of a cookie.
    """

    def __init__(self, api_key: str, hours: float) -> None:
        self._api_key = api_key.encode()
        self.seconds = round(hours * 3600)

    @property
    def needed(self) -> bool:
        """Whether the service asks for a key."""
        return bool(self._api_key)

    def opened_with(self, key: str) -> str | None:
        """The content of a cookie for the right key; None for a wrong one."""
        if not hmac.compare_digest(key.strip().encode(), self._api_key):
            return None
        end = str(int(time.time()) + self.seconds)
        return f"{end}.{self._signature(end)}"

    def holds(self, cookie: str) -> bool:
        """Whether a cookie was given here, for this key, and has not ended."""
        end, _, signature = cookie.partition(".")
        good = hmac.compare_digest(signature.encode(), self._signature(end).encode())
        return good and end.isdigit() and int(end) > time.time()

    def admits(self, scope: Scope) -> bool:
        """Whether a request without the key in its head is let through: the page's own, with a cookie, or open."""
        path = scope["path"]
        if path in OPEN or path.startswith(STATIC):
            return True
        if not path.startswith(f"{PATH}/"):
            return False
        return any(
            self.holds(cookie_of(value.decode("latin-1"))) for name, value in scope["headers"] if name == b"cookie"
        )

    def _signature(self, end: str) -> str:
        return hmac.new(self._api_key, f"review until {end}".encode(), hashlib.sha256).hexdigest()


def cookie_of(header: str) -> str:
    """The page's cookie of a request's header; "" without one."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
