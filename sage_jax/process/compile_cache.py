"""Compiled programs kept on disk: a run that compiles what an earlier one compiled reads it instead."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jax

_LEAST: Final = "jax_persistent_cache_min_compile_time_secs"
_JAX_LEAST: Final = 1.0
_SECONDS: Final = 0.2
"""The dozen small programs of a start take 3 s to compile on a CPU, none of them one second (docs/benchmarks.md)."""


def keep_compiled_programs(cache_dir: Path | str) -> None:
    """Keeps what takes over 0.2 s to compile under `cache_dir`/compiled, found again by program, devices and flags.

    JAX's own settings come first: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    keeps nothing. The folder may be deleted at any time.
    """
    if jax.config.values[_LEAST] == _JAX_LEAST:
        jax.config.update(_LEAST, _SECONDS)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache_dir).expanduser() / "compiled"))
