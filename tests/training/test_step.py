"""The compiled step: once for each shape of batches, told of, and found again by a later process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from bench.sizes import SIZES, make_tree
from sage_jax.training.step import CompiledStep

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, jax, jax.numpy as jnp
from sage_jax.compile_cache import keep_compiled_programs
keep_compiled_programs(sys.argv[1])
print(jax.config.values["jax_persistent_cache_min_compile_time_secs"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 5)))[0, 0]))
print(found.count("/jax/compilation_cache/cache_hits"))
"""


def run(folder: Path, **environment: str) -> list[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
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


def test_a_shape_compiles_once_and_is_told() -> None:
    told: list[str] = []
    start, frozen = (cast(Any, np.int32(value)) for value in (1, 2))  # any state will do
    jitted = jax.jit(lambda state, frozen, batch: (state + frozen + batch.token_ids.sum(), {}))
    step = CompiledStep(jitted, told.append)
    longer = make_tree(SIZES["tiny"], rows=2, questions=1, num_answers=2, seed=0, round_to=512)
    batches = [make_tree(SIZES["tiny"], rows=2, questions=1, num_answers=2, seed=seed, round_to=256) for seed in (1, 2)]
    for batch in (*batches, longer, *batches):
        state, _ = step(start, frozen, batch)
        assert state == 3 + batch.token_ids.sum()
    assert len(step.seconds) == len(told) == 2
    assert "2 rows of 256 tokens without references" in told[0] and told[1].endswith("(shape 2)")
