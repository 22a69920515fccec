"""The queue: bounded, in order, one kind at a time, and nothing for who has gone."""

from __future__ import annotations

import threading
import time

import pytest

from sage_jax.inspection.images import InputImage
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.jobs import Job, JobQueue


def job(name: str, kind: int = 0) -> Job:
    return Job(InputImage(name, "", None), kind)


def names(jobs: list[Job]) -> list[str]:
    return [each.image.path for each in jobs]


def test_jobs_of_one_kind_come_together_and_nobody_is_overtaken_for_ever() -> None:
    queue = JobQueue(9)
    for name, kind in (("a", 0), ("b", 1), ("c", 0), ("d", 2), ("e", 1), ("f", 0)):
        queue.put(job(name, kind), retry_after=1)
    taken = [names(queue.take(2)) for _ in range(4)]
    assert taken == [["a", "c"], ["b", "e"], ["d"], ["f"]] and len(queue) == 0


def test_a_full_queue_and_a_closed_one_refuse() -> None:
    queue = JobQueue(1)
    queue.put(job("a"), retry_after=1)
    with pytest.raises(RequestFault, match="1 images wait already") as raised:
        queue.put(job("b"), retry_after=7)
    assert (raised.value.status, raised.value.retry_after) == (429, 7)
    queue.close("closing")
    with pytest.raises(RequestFault, match="closing") as raised:
        queue.put(job("c"), retry_after=1)
    assert raised.value.status == 503 and names(queue.take(5)) == ["a"]


def test_who_has_gone_is_left_out_and_who_is_taken_cannot_go() -> None:
    queue = JobQueue(9)
    jobs = [job(name) for name in "abc"]
    for each in jobs:
        queue.put(each, retry_after=1)
    assert jobs[1].finding.cancel()
    assert names(queue.take(9)) == ["a", "c"]
    assert not jobs[0].finding.cancel()


def test_a_batch_that_is_not_full_waits_a_little_and_no_longer() -> None:
    queue = JobQueue(9)
    queue.put(job("a"), retry_after=1)
    threading.Timer(0.05, lambda: queue.put(job("b"), retry_after=1)).start()
    assert names(queue.take(2, gather_seconds=5.0)) == ["a", "b"]
    queue.put(job("c"), retry_after=1)
    start = time.monotonic()
    assert names(queue.take(2, gather_seconds=0.05)) == ["c"] and time.monotonic() - start < 2.0


def test_an_empty_queue_gives_none_after_a_while() -> None:
    assert JobQueue(1).take(4) == []
