"""A client for `POST {base_url}/chat/completions`, as vLLM, Ollama and the clouds serve it."""

from __future__ import annotations

import dataclasses
import email.utils
import http.client
import json
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from sage_jax.endpoint.budget import Budget
from sage_jax.endpoint.chat import BadReply, ChatRequest, Reply, read_reply
from sage_jax.errors import UserError, plain

_PASSING: Final = (408, 425, 429)
"""Statuses below 500 that a later request may not meet."""

_OPTIONAL: Final = ("temperature", "seed", "max_tokens")
"""Fields of a request that some models take none of."""

_MOST_BYTES: Final = 16 * 2**20
_MOST_BYTES_OF_AN_ERROR: Final = 2**16
_LONGEST_BACKOFF: Final = 60.0
_LONGEST_WAIT: Final = 900.0
"""Seconds that a `Retry-After` is waited for; who asks for more is asked again by another run."""
_POLL_SECONDS: Final = 0.1
_SHORTEST_SECRET: Final = 8
"""Letters from which a key is one: servers without keys are given any word, which replies may have in them."""


class EndpointError(UserError):
    """An endpoint that refuses a request, or that is none; the message says why, and what to look at."""


class NoAnswer(Exception):
    """A request that got no usable reply; the message says why."""


class Unanswered(NoAnswer):
    """A request that failed as often as it may be sent."""


class Stopped(Exception):
    """A request that was given up because the work stops."""


class _Passing(Exception):
    """A failure that may pass; `wait` are the seconds that the endpoint asks for, or None."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would lose the body of a POST, and carry the key elsewhere."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


class Endpoint:
    """An OpenAI-compatible endpoint, asked by several threads.

    What may pass (429, 5xx, no connection, no reply in time, a reply that is none) is asked again after a wait: the
    seconds of `Retry-After`, which all threads then wait, or else a back-off that doubles each time, up to a minute,
    with jitter. No connection is opened before the first request.

    Args:
      base_url: Address up to and without `/chat/completions`, such as `http://localhost:8000/v1`.
      api_key: Sent as bearer token; "" = none. It is in no message, and in no reply.
      timeout_seconds: Longest time for a reply.
      retries: Times that a request is sent again.
      budget: Counts what is sent.
      backoff_seconds: First wait of the back-off.
      stop_requested: Whether to send nothing more and to wait no longer.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        timeout_seconds: float = 120.0,
        retries: int = 5,
        budget: Budget | None = None,
        backoff_seconds: float = 1.0,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.url = f"{base_url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        self.budget = budget or Budget()
        self._api_key, self._timeout, self._retries = api_key, timeout_seconds, retries
        self._backoff, self._stop_requested = backoff_seconds, stop_requested
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._halted = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return self._halted.is_set() or self._stop_requested()

    def halt(self) -> None:
        """Sends nothing more, from any thread; requests under way go on."""
        self._halted.set()

    def ask(self, request: ChatRequest) -> Reply:
        """The model's reply.

        Raises:
          EndpointError: The endpoint refuses the request.
          BudgetUsedUp: It must not be sent.
          Unanswered: It failed each time.
          Stopped: The work stops.
        """
        body = json.dumps(request.body()).encode()
        for attempt in range(self._retries + 1):
            self._wait_for_turn()
            self.budget.take_request()
            try:
                reply = read_reply(self._post(body))
            except (_Passing, BadReply) as failed:
                if attempt == self._retries:
                    raise Unanswered(f"{self._clean(str(failed))} ({attempt + 1} times asked)") from None
                self._back_off(attempt, failed.wait if isinstance(failed, _Passing) else None)
            else:
                self.budget.spend(reply.total_tokens)
                return dataclasses.replace(reply, text=self._without_key(reply.text))
        raise AssertionError("the last attempt returns or raises")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "sage_jax"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return self._read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._failure(error) from None
        except (http.client.InvalidURL, UnicodeError) as error:
            raise EndpointError(f"{self.url} is no address: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise EndpointError(
                    f"{self.url}: its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names a file "
                    "of further authorities"
                ) from None
            if isinstance(cause, TimeoutError):
                raise self._late() from None
            said = str(cause) or type(cause).__name__
            raise _Passing(f"{self.url} cannot be reached: {said}") from None

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """The body, in whatever pieces it comes, within the time of the whole."""
        content = bytearray()
        while piece := response.read1(2**16):
            content += piece
            if len(content) > _MOST_BYTES:
                raise _Passing(f"{self.url} answers with more than {_MOST_BYTES} bytes")
            if time.monotonic() > deadline:
                raise self._late()
        if response.length:
            raise _Passing(f"{self.url} breaks off in the middle of a reply")
        return bytes(content)

    def _late(self) -> _Passing:
        return _Passing(f"{self.url} gives no reply within {self._timeout:g} s")

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        """What a status other than 2xx means."""
        with error:
            try:
                content = error.read(_MOST_BYTES_OF_AN_ERROR)
            except (OSError, http.client.HTTPException):
                content = b""
        said = f"{error.code} {error.reason}".strip()
        if message := self._clean(_message_of(content)):
            said = f"{said}: {message}"
        if error.code in _PASSING or error.code >= 500:
            return _Passing(f"{self.url} answers {said}", _retry_after(error.headers.get("Retry-After")))
        if error.code < 400:
            where = self._clean(str(error.headers.get("Location", "")))
            return EndpointError(f"{self.url} answers {said}, a redirect to {where!r}: give that address as base_url")
        hints = {401: "check the key", 403: "check the key", 404: "check base_url, which mostly ends in /v1, and model"}
        hint = hints.get(error.code, "the request would be refused again")
        if error.code in (400, 422) and any(name in said for name in _OPTIONAL):
            hint = "temperature=-1, seed=-1 and reply_tokens=0 leave these out"
        return EndpointError(f"{self.url} refuses the request: {said} ({hint})")

    def _clean(self, text: str) -> str:
        """A text of the endpoint's on one line, shortened, and without the key, which some quote."""
        return plain(self._without_key(" ".join(text.split())))

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]") if len(self._api_key) >= _SHORTEST_SECRET else text

    def _back_off(self, attempt: int, wait: float | None) -> None:
        if wait is None:
            longest = min(self._backoff * 2.0 ** min(attempt, 10), _LONGEST_BACKOFF)
            self._sleep_until(time.monotonic() + longest * random.uniform(0.5, 1.0))
            return
        if wait > _LONGEST_WAIT:
            raise EndpointError(f"{self.url} asks to wait {wait:.0f} s before the next request: run this again then")
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + wait)

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                until = self._not_before
            self._sleep_until(until)
            if until >= self._not_before:
                return

    def _sleep_until(self, moment: float) -> None:
        while True:
            if self.stopped:
                raise Stopped
            left = moment - time.monotonic()
            if left <= 0:
                return
            self._halted.wait(min(left, _POLL_SECONDS))


def _message_of(content: bytes) -> str:
    """The message in the body of an error: OpenAI's, Ollama's or FastAPI's form, or the text itself."""
    text = content.decode(errors="replace")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(found, Mapping) and found.get(name):
            found = found[name]
    return found if isinstance(found, str) else text


def _retry_after(header: str | None) -> float | None:
    """Seconds of a `Retry-After` (RFC 9110, 10.2.3), given as a number or a date; None without."""
    given = (header or "").strip()
    try:
        return max(0.0, float(given)) if given.replace(".", "", 1).isdigit() else max(0.0, _seconds_until(given))
    except (ValueError, TypeError):
        return None


def _seconds_until(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
