"""The memory meter: what was held inside, by this process and its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.process.peak_memory import PeakMemory

HELD = """
import time
from sage_jax.process.peak_memory import PeakMemory
with PeakMemory() as quiet:
    pass
with PeakMemory(interval=0.01) as busy:
    held = b"x" * 200_000_000
    time.sleep(0.2)  # a sample is taken meanwhile
    del held
with PeakMemory() as after:
    pass
print(quiet.gigabytes, busy.gigabytes, after.gigabytes)
"""


def test_memory_meter_sees_what_was_held_inside_only():
    """In a process of its own: in this one, what earlier tests freed may be used again, or be given back meanwhile."""
    told = subprocess.run([sys.executable, "-c", HELD], check=True, capture_output=True, text=True).stdout
    quiet, busy, after = map(float, told.split())
    assert busy - quiet == pytest.approx(0.2, abs=0.05)
    assert after < busy - 0.1


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
