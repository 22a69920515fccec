"""Work of threads that mostly wait, several pieces at a time."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL_SECONDS: Final = 0.2


def in_flight(
    tasks: Iterable[Task], work: Callable[[Task], Result], *, threads: int, stopped: Callable[[], bool]
) -> Iterator[tuple[Task, Result | Exception]]:
    """Each task with its result, or with the exception that it ended in, in the order in which they end.

    The threads are daemons: a program that ends at once, by a second Ctrl-C, does not wait for them.

    Args:
      tasks: Taken one by one, when a thread is free; what they raise is raised here.
      work: Run in the threads.
      threads: Tasks at a time.
      stopped: Whether no further task is taken; those under way are ended and yielded.
    """
    source, lock = iter(tasks), threading.Lock()
    ended: queue.SimpleQueue[tuple[Task, Result | Exception] | Exception | None] = queue.SimpleQueue()
    abandoned = threading.Event()

    def take() -> list[Task]:
        """The next task; none at the end."""
        with lock:
            return [] if abandoned.is_set() or stopped() else list(itertools.islice(source, 1))

    def run() -> None:
        try:
            while tasks_taken := take():
                for task in tasks_taken:
                    try:
                        ended.put((task, work(task)))
                    except Exception as error:
                        ended.put((task, error))
        except Exception as error:
            ended.put(error)
        finally:
            ended.put(None)

    for number in range(threads):
        threading.Thread(target=run, name=f"in-flight-{number}", daemon=True).start()
    running = threads
    try:
        while running:
            try:
                one = ended.get(timeout=_POLL_SECONDS)  # signals are handled in between
            except queue.Empty:
                continue
            if one is None:
                running -= 1
            elif isinstance(one, Exception):
                raise one
            else:
                yield one
    finally:
        abandoned.set()
