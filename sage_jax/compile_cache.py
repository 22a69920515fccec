"""Compiled programs kept on disk: a run that compiles what an earlier one compiled reads it instead."""

from __future__ import annotations

from pathlib import Path

import jax


def keep_compiled_programs(cache_dir: Path | str) -> None:
    """Keeps what takes over a second to compile under `cache_dir`/compiled, found again by program, devices and flags.

    JAX's own settings come first: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    keeps nothing. The folder may be deleted at any time.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache_dir).expanduser() / "compiled"))
