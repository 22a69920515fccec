"""A real HTTP server on this machine that speaks the chat protocol, well or badly, as a test tells it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Served:
    """A response.

    Attributes:
      body: Its body.
      status, headers: Its status line and further headers.
      delay: Seconds before the first byte.
      pieces: Parts that the body is sent in, a tenth of a second apart.
      cut: Whether the connection closes in the middle of the body.
      closed: Whether it closes without a word.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    pieces: int = 1
    cut: bool = False
    closed: bool = False


def chat(text: str | None, *, total_tokens: int | None = 10, finish: str = "stop") -> Served:
    """A good response with a text."""
    usage = {} if total_tokens is None else {"usage": {"total_tokens": total_tokens}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Served(json.dumps({"object": "chat.completion", "choices": [choice], **usage}).encode())


def marks(accuracy: int = 5, localization: int = 4, logic: int = 3) -> Served:
    """A good judgement."""
    return chat(json.dumps({"accuracy": accuracy, "localization": localization, "logic": logic}))


def failing(status: int, message: str = "", **headers: str) -> Served:
    """An error in OpenAI's form."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Served(json.dumps({"error": {"message": message, "code": status}}).encode(), status, named)


class EndpointServer(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
      bodies: JSON bodies of the requests, in the order in which they came.
      keys: Their Authorization headers.
      times: When they came, in monotonic seconds.
      most_at_once: Most requests that were under way together.
    """

    daemon_threads = True

    def __init__(self, respond: Callable[[dict[str, Any], int], Served], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base address for a config."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is said of clients that went away."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, EndpointServer)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.paths.append(self.path)
            server.times.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._send(server.respond(body, number))
        finally:
            with server.lock:
                server.at_once -= 1

    def _send(self, served: Served) -> None:
        time.sleep(served.delay)
        if served.closed:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(served.status)
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(served.body)))
        self.end_headers()
        sent = served.body[: len(served.body) // 2] if served.cut else served.body
        size = -(-len(sent) // served.pieces) or 1
        for start in range(0, len(sent), size):
            if start:
                time.sleep(0.1)
            self.wfile.write(sent[start : start + size])
            self.wfile.flush()
        if served.cut:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


@contextlib.contextmanager
def served(respond: Callable[[dict[str, Any], int], Served], port: int = 0) -> Iterator[EndpointServer]:
    """The server at work.

    Args:
      respond: Takes the body of a request and its number, from 0.
      port: Where it listens; 0 = a free one.
    """
    with EndpointServer(respond, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
