"""Stopping by signal: the first one asks, the second one aborts, and the handlers of before come back."""

from __future__ import annotations

import os
import signal
import threading

import jax
import pytest

from sage_jax.config import MeshConfig
from sage_jax.process.stop_request import StopRequest
from sage_jax.sharding import make_mesh


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_aborts(number: signal.Signals):
    said: list[str] = []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), StopRequest(said.append, make_mesh(MeshConfig())) as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.agreed()
        assert len(said) == 1 and number.name in said[0]
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_the_line_says_what_is_finished_first():
    said: list[str] = []
    with StopRequest(said.append, make_mesh(MeshConfig()), after="this batch"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert said == ["SIGTERM: stopping after this batch; again to abort"]


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), StopRequest(print, make_mesh(MeshConfig())):
        assert signal.getsignal(signal.SIGINT) is not before[0]
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_that_may_not_handle_signals_trains_all_the_same():
    answers: list[bool] = []
    mesh = jax.make_mesh((8,), ("data",))

    def work() -> None:
        with StopRequest(print, mesh) as stop:
            answers.append(stop.agreed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
