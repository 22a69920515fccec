"""The memory meter: what was held inside, by this process and its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.process.allocator import give_back_freed_memory
from sage_jax.process.peak_memory import PeakMemory


def test_memory_meter_sees_what_was_held_inside_only():
    with PeakMemory() as quiet:
        pass
    with PeakMemory(interval=0.01) as busy:
        held = b"x" * 200_000_000
        del held
    give_back_freed_memory()  # which a computation of an earlier test may keep
    with PeakMemory() as after:
        pass
    assert busy.gigabytes - quiet.gigabytes == pytest.approx(0.2, abs=0.05)
    assert after.gigabytes < busy.gigabytes - 0.1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only /proc tells what running children hold")
def test_memory_meter_counts_worker_processes():
    script = "held = b'x' * 200_000_000; print(len(held), flush=True); input()"
    with PeakMemory() as without:
        pass
    with PeakMemory() as meter:  # its last sample is taken on leaving, while the worker still holds its memory
        worker = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        worker.stdout.readline()
    worker.communicate("\n")
    assert meter.gigabytes - without.gigabytes >= 0.19
