"""The server: a port that is taken is told, and an answer under way is waited for at the end."""

from __future__ import annotations

import socket
import threading
import time

import httpx2
import pytest
from fastapi import FastAPI

from sage_jax.config import ServeConfig
from sage_jax.errors import UserError
from sage_jax.serving.server import address_of, listening_socket, serving


def test_a_port_that_is_taken_or_a_host_that_is_none_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UserError, match="cannot listen there"):
            listening_socket(ServeConfig(port=taken.getsockname()[1]))
    with pytest.raises(UserError, match="serve.host = 'no such host'"):
        listening_socket(ServeConfig(host="no such host", port=0))


def test_it_listens_on_this_machine_alone() -> None:
    with listening_socket(ServeConfig(port=0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert address_of(listening).startswith("http://127.0.0.1:")


def test_leaving_waits_for_answers_under_way() -> None:
    app, options, began = FastAPI(), ServeConfig(port=0, stop_seconds=30.0), threading.Event()

    @app.get("/{seconds}")
    def slow(seconds: float) -> float:
        began.set()
        time.sleep(seconds)
        return seconds

    answers: list[float] = []
    listening = listening_socket(options)
    with serving(app, listening, options):
        address = address_of(listening)
        asked = threading.Thread(target=lambda: answers.append(httpx2.get(f"{address}/0.5", timeout=30).json()))
        asked.start()
        assert began.wait(60)
    asked.join()
    assert answers == [0.5]
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(address, timeout=5)
