"""The peer's allocator keeps freed memory instead of returning it to the kernel after every step.

TRL's step on a CPU gets up to 1.5x faster by it; PyTorch's CPU tuning guide recommends tcmalloc or jemalloc for the
same reason.
"""

from __future__ import annotations

import os
import sys
from typing import Final

MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""Environment of a process whose glibc keeps freed memory; glibc reads it when a program starts."""


def restart_with_kept_memory() -> None:
    """Starts this program again with its arguments where its environment is not yet `MALLOC`'s."""
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **MALLOC})
