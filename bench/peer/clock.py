"""Seconds, processor seconds and peak memory of the peer's steps. Imports torch only where a GPU is measured."""

from __future__ import annotations

import os
import time

import numpy as np


class Clock:
    """Seconds between ticks, own processor seconds, and cores that other processes kept busy meanwhile.

    With OpenMP's barriers a neighbour on one of two cores costs the peer far more than half its speed: a run with
    `others_cores` above about 0.1 says little and is to be repeated.

    Args:
      device: `cpu` or `cuda`; a tick waits for what a GPU still computes.
      start: False to begin with a later call of `start`.
    """

    def __init__(self, device: str = "cpu", *, start: bool = True) -> None:
        self._device = device
        self._marks: list[tuple[float, float, float]] = []
        if start:
            self.start()

    def start(self) -> None:
        """Begins the first measurement and forgets the peak of memory so far."""
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak_memory()
        self.tick()

    def tick(self) -> None:
        """Ends a measurement; the next begins."""
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
        self._marks.append((time.perf_counter(), time.process_time(), _busy_seconds()))

    def summary(self, skip: int = 0) -> dict[str, float | int]:
        """Median, least and most seconds, own processor seconds (median), measurements, cores that others used.

        Args:
          skip: Measurements at the beginning that do not count.
        """
        marks = np.array(self._marks[skip:])
        spans = np.diff(marks, axis=0)
        whole = marks[-1] - marks[0]
        return {
            "seconds": round(float(np.median(spans[:, 0])), 5),
            "seconds_min": round(float(spans[:, 0].min()), 5),
            "seconds_max": round(float(spans[:, 0].max()), 5),
            "cpu_seconds": round(float(np.median(spans[:, 1])), 5),
            "n": len(spans),
            "others_cores": round(max(0.0, float((whole[2] - whole[1]) / whole[0])), 2),
        }

    def peak_memory_gb(self) -> float:
        """Peak memory since the start, GB: of the GPU's tensors, or of the process on a CPU."""
        if self._device == "cuda":
            import torch

            return round(torch.cuda.max_memory_allocated() / 1e9, 3)
        try:
            with open("/proc/self/status", encoding="ascii") as file:
                kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            return 0.0
        return round(kilobytes * 1024 / 1e9, 3)


def _reset_peak_memory() -> None:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # no such file outside Linux, or not ours to write: the peak is then that of the whole process


def _busy_seconds() -> float:
    """Processor seconds that the whole machine has spent; those of this process where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return time.process_time()
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
