"""Compiled programs are kept on disk and found again by a later process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


PROGRAM = """
import sys, jax, jax.numpy as jnp
from sage_jax.process.compile_cache import keep_compiled_programs
keep_compiled_programs(sys.argv[1])
print(jax.config.values["jax_persistent_cache_min_compile_time_secs"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 5)))[0, 0]))
print(found.count("/jax/compilation_cache/cache_hits"))
"""


def run(folder: Path, **environment: str) -> list[str]:
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    variables = {**ours, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert "rror" not in done.stderr, done.stderr
    return done.stdout.split()


def test_a_later_process_finds_what_an_earlier_one_compiled(tmp_path: Path) -> None:
    least, value, hits = run(tmp_path)
    assert float(least) == 0.2
    assert hits == "0" and list((tmp_path / "compiled").iterdir())
    _, again, hits = run(tmp_path)
    assert again == value and int(hits) >= 1


def test_jax_s_own_settings_come_first(tmp_path: Path) -> None:
    run(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"))
    assert list((tmp_path / "theirs").iterdir()) and not (tmp_path / "ours").exists()
    run(tmp_path / "ours", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "ours" / "compiled").exists()
    assert float(run(tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="3")[0]) == 3.0
