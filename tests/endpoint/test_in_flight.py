"""Several pieces of work at a time: all of them, no more than asked for, and none after a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from sage_jax.endpoint.in_flight import in_flight


def never() -> bool:
    return False


def test_each_task_ends_once_with_its_result_or_its_exception() -> None:
    def work(number: int) -> int:
        if number % 7 == 0:
            raise ValueError(str(number))
        return number * number

    found = dict(in_flight(range(100), work, threads=5, stopped=never))
    assert sorted(found) == list(range(100))
    for number, result in found.items():
        assert str(result) == str(number if number % 7 == 0 else number * number)
    assert list(in_flight([], work, threads=3, stopped=never)) == []
    assert list(in_flight([[]], len, threads=2, stopped=never)) == [([], 0)]


def test_as_many_run_together_as_asked_for() -> None:
    together = threading.Barrier(4, timeout=5)
    at_once, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        together.wait()
        with lock:
            at_once -= 1

    assert all(result is None for _, result in in_flight(range(12), work, threads=4, stopped=never))
    assert most == 4


def test_after_a_stop_what_is_under_way_ends_and_nothing_is_taken() -> None:
    stop, taken = threading.Event(), []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if number == 5:
            stop.set()
        time.sleep(0.02)
        return number

    found = [number for number, _ in in_flight(tasks(), work, threads=3, stopped=stop.is_set)]
    assert 6 <= len(found) <= 6 + 2 and sorted(found) == taken


def test_what_the_tasks_raise_is_raised() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(in_flight(tasks(), str, threads=2, stopped=never))


def test_who_leaves_early_leaves_no_thread_at_work() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    stream = in_flight(range(1000), work, threads=2, stopped=never)
    next(stream)
    del stream
    for thread in [each for each in threading.enumerate() if each.name.startswith("in-flight")]:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert len(done) < 1000
