"""The HTTP server in a thread of its own: the main thread is the model's, which computes fastest there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from sage_jax.config import ServeConfig
from sage_jax.errors import UserError

_BACKLOG = 1024


def listening_socket(options: ServeConfig) -> socket.socket:
    """The socket at `host` and `port`.

    Raises:
      UserError: It cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"serve.host = {options.host!r}, serve.port = {options.port}: cannot listen there: "
            f"{error.strerror or error}: give another port, or stop what has it"
        ) from None


def address_of(listening: socket.socket) -> str:
    """The address of a socket, for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def serving(app: FastAPI, listening: socket.socket, options: ServeConfig) -> Iterator[None]:
    """Answers requests inside the block; leaving it waits until clients have their answers, up to `stop_seconds`."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=options.max_connections,
            timeout_graceful_shutdown=max(1, round(options.stop_seconds)),
            ws="none",
            lifespan="off",
        )
    )
    thread = threading.Thread(target=server.run, args=([listening],), name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
