"""What a program asks of the C library's allocator, which on a CPU holds all arrays.

Huge pages make a training step of a small model a fifth faster there, and a compiler leaves hundreds of megabytes that
are free and not given back (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

SETTING: Final = "GLIBC_TUNABLES"
HUGE: Final = "glibc.malloc.hugetlb"


def restart_with_huge_pages() -> None:
    """Starts this program again, in the same process, with the C library asking for huge pages; once, where that helps.

    That is on Linux with `madvise` in /sys/kernel/mm/transparent_hugepage/enabled, the usual setting, with which memory
    comes in pages of 4 KiB unless a program asks. The C library (glibc 2.35 or later, others ignore it) reads its
    tunables at a program's start alone. To do without: GLIBC_TUNABLES=glibc.malloc.hugetlb=0.
    """
    changed = environment_with_huge_pages(os.environ, _kernel_setting())
    if changed is not None:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)


def environment_with_huge_pages(environment: os._Environ[str] | dict[str, str], kernel: str) -> dict[str, str] | None:
    """The environment to start again with; None where nothing is to change.

    Args:
      kernel: The kernel's setting, as its file shows it.
    """
    tunables = environment.get(SETTING, "")
    if "[madvise]" not in kernel or HUGE in tunables:
        return None
    return {**environment, SETTING: f"{tunables}:{HUGE}=1".lstrip(":")}


def _kernel_setting() -> str:
    try:
        return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
    except OSError:
        return ""  # not Linux, or a kernel without them


def give_back_freed_memory() -> None:
    """Gives memory that was freed back to the system; glibc alone keeps it, elsewhere nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))
