"""Results posted to an address: in order, each until it is taken; what is not yet taken survives a restart."""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from sage_jax.errors import plain
from sage_jax.watching.journal import WatchError, WatchJournal
from sage_jax.watching.result_file import numbered

_CURSOR: Final = "posted"
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_POLL_SECONDS: Final = 1.0
_MOST_BYTES: Final = 2**16


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would lose the body of a POST, and carry the key elsewhere."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


class Webhook:
    """Posts the journal's results in a thread of its own, one after the other, and never holds up who writes them.

    A result that is not taken (no connection, no reply in time, a status other than 2xx) is posted again, after a wait
    that doubles up to a minute. Killed between the reply and its note, the program posts a result once more: the header
    `Idempotency-Key`, and `number` in the body, tell it. Results of before the first use are not posted.

    Args:
      address: Where to.
      journal: The results.
      name: Of the watch, for the header.
      say: Takes a line for the user.
      api_key: Sent as bearer token; "" = none.
      timeout_seconds: Longest time for a reply.
      first_wait: Seconds of the first wait.

    Attributes:
      error: What ended it before its time: the journal cannot be read or written.
    """

    def __init__(
        self,
        address: str,
        journal: WatchJournal,
        *,
        name: str,
        say: Callable[[str], None],
        api_key: str = "",
        timeout_seconds: float = 10.0,
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self._address, self._journal, self._name, self._say = address, journal, name, say
        self._api_key, self._timeout, self._first_wait = api_key, timeout_seconds, first_wait
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopping, self._changed = threading.Event(), threading.Event()
        self.error: WatchError | None = None
        found = journal.cursor(_CURSOR)
        self._last = journal.last_number() if found is None else found
        if found is None:
            journal.move_cursor(_CURSOR, self._last)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Begins to post."""
        self._thread.start()

    def wake(self) -> None:
        """Says that there is a new result."""
        self._changed.set()

    def stop(self) -> int:
        """Ends after the post under way; gives the number of results that are left for the next start."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._journal.last_number() - self._last

    def _run(self) -> None:
        try:
            self._post_all()
        except WatchError as error:
            self.error = error

    def _post_all(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            results = self._journal.results_after(self._last, 1)
            if not results:
                self._changed.wait(_POLL_SECONDS)
                self._changed.clear()
                continue
            (result,) = results
            fault = self._post(result.number, numbered(result.number, result.line))
            if fault:
                wait = min(_LONGEST_WAIT, self._first_wait * 2.0**failures)
                if failures == 0 or wait == _LONGEST_WAIT:
                    left = self._journal.last_number() - self._last
                    self._say(f"webhook: {plain(fault)}; {left} to post, tried again after {wait:g} s")
                failures += 1
                self._stopping.wait(wait)
                continue
            if failures:
                self._say("webhook: taken again")
            failures, self._last = 0, result.number
            self._journal.move_cursor(_CURSOR, self._last)

    def _post(self, number: int, body: str) -> str:
        """Posts a result; why it was not taken, or "". Neither key nor address is part of it."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "sage_jax",
            "Idempotency-Key": f"{self._name}-{number}",
        }
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self._address, data=body.encode(), headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                response.read(_MOST_BYTES)
            return ""
        except urllib.error.HTTPError as error:
            with error:
                return f"status {error.code} {error.reason}"
        except (OSError, http.client.HTTPException, ssl.SSLError, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            return f"no reply ({cause or type(error).__name__})"
