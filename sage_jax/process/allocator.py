"""What a program asks of the C library's allocator, which on a CPU holds all arrays.

Huge pages make a training step of a small model a fifth faster there, memory that is kept from one step to the next a
tenth, and a compiler leaves hundreds of megabytes that are free and not given back (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, Final

SETTING: Final = "GLIBC_TUNABLES"
HUGE: Final = "glibc.malloc.hugetlb"
TRIM: Final = "glibc.malloc.trim_threshold"

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4


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


def compute_on_calling_thread() -> None:
    """Has a CPU compute on the thread that asks for it; other Python threads go on meanwhile.

    To be called before anything runs on a device. glibc keeps freed arrays for the main thread alone: it gives those of
    JAX's own threads back to the system, which clears their pages for every computation anew. Several devices of one
    process compute on threads of their own all the same.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_freed_memory() -> None:
    """Keeps what the main thread frees for what it computes next, where that is on a CPU.

    To do without: GLIBC_TUNABLES=glibc.malloc.trim_threshold=131072, or any other number.
    """
    import jax

    if jax.default_backend() != "cpu" or TRIM in os.environ.get(SETTING, ""):
        return
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        mallopt(ctypes.c_int(_M_MMAP_MAX), ctypes.c_int(0))
        mallopt(ctypes.c_int(_M_TRIM_THRESHOLD), ctypes.c_int(-1))  # never


def _kernel_setting() -> str:
    try:
        return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
    except OSError:
        return ""  # not Linux, or a kernel without them


def give_back_freed_memory() -> None:
    """Gives memory that was freed back to the system; glibc alone keeps it, elsewhere nothing happens."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_the_c_library(name: str) -> Any | None:
    """A function of glibc; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
