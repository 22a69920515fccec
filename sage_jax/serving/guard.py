"""What holds for every request: a key, a largest body, a longest time to arrive, and a count of the answers."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_jax.config import ServeConfig
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.measures import Measures

OPEN: Final = ("/health", "/ready")
"""Paths for which no key is asked: what a supervisor looks at."""


def fault_response(fault: RequestFault) -> JSONResponse:
    """The response of a fault; its form is that of OpenAI's errors."""
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    content = {"error": {"message": str(fault), "type": fault.kind, "code": fault.status}}
    return JSONResponse(content, fault.status, headers)


class Guard:
    """ASGI middleware around the app.

    Args:
      api_key: "" = none is asked for.
      known: Paths to count by name; others count together.
      admits: Whether a request without the key is let through nonetheless.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        options: ServeConfig,
        api_key: str,
        measures: Measures,
        known: frozenset[str],
        admits: Callable[[Scope], bool] = lambda scope: False,
    ) -> None:
        self._app, self._options, self._measures, self._known = app, options, measures, known
        self._api_key, self._admits = api_key.encode(), admits
        self._most_bytes = int(options.max_body_mb * 1e6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has the app answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 499
        scope["sage_start"] = start

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            fault = self._refusal(scope)
            if fault is None:
                await self._app(scope, self._limited(receive, start), counted)
            else:
                await fault_response(fault)(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._known else "other"
            self._measures.request(path, status, time.monotonic() - start)

    def _refusal(self, scope: Scope) -> RequestFault | None:
        """Why a request is refused by its head alone."""
        headers = dict(scope["headers"])
        if self._api_key and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            bearer = given[len(b"bearer ") :] if given[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(bearer.strip(), self._api_key) and not self._admits(scope):
                return RequestFault(401, "no key, or a wrong one: send the header Authorization: Bearer KEY")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RequestFault:
        return RequestFault(413, f"the body is larger than {self._most_bytes} bytes (serve.max_body_mb)")

    def _limited(self, receive: Receive, start: float) -> Receive:
        """The body as it comes, up to its largest size and its longest time."""
        seconds, length, whole = self._options.body_seconds, 0, False

        async def limited() -> Message:
            nonlocal length, whole
            if whole:  # what comes now is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, start + seconds - time.monotonic()))
            except TimeoutError:
                raise RequestFault(408, f"the body did not arrive within {seconds:g} s (serve.body_seconds)") from None
            length += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if length > self._most_bytes:
                raise self._too_large()
            return message

        return limited
