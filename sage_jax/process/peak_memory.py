"""Peak memory of a process and the processes that it starts."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from pathlib import Path


class PeakMemory:
    """Peak resident memory of this process and its descendants while the context is open, in GB (10^9 bytes).

    Where `/proc` exists (Linux), the resident sizes of the process tree are summed every `interval` seconds; pages that
    processes share count once for each, so that the sum is an upper bound. This process's own high-water mark is
    exact: if it rose inside the context, the peak is at least that. Elsewhere the only figures are high-water marks
    since the start of the process: its own plus that of its largest finished child.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._mark = 0
        self._peak = 0

    def __enter__(self) -> PeakMemory:
        self._mark = _high_water(resource.RUSAGE_SELF)
        self._peak = _tree_bytes()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._peak = max(self._peak, _tree_bytes())
        mark = _high_water(resource.RUSAGE_SELF)
        if mark > self._mark:
            self._peak = max(self._peak, mark)
        if not Path("/proc/self/status").exists():
            self._peak = mark + _high_water(resource.RUSAGE_CHILDREN)

    @property
    def gigabytes(self) -> float:
        return self._peak / 1e9

    def _sample(self) -> None:
        while not self._closed.wait(self._interval):
            self._peak = max(self._peak, _tree_bytes())


def _high_water(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def _tree_bytes() -> int:
    """Resident bytes of this process and its descendants; 0 without /proc."""
    total, waiting = 0, ["self"]
    while waiting:
        process = Path("/proc") / waiting.pop()
        # A process may end between two reads: what is gone has no memory.
        with contextlib.suppress(OSError):
            total += int((process / "statm").read_text().split()[1]) * resource.getpagesize()
            for task in (process / "task").iterdir():
                waiting += (task / "children").read_text().split()
    return total
