"""Runs of the whole program on the tiny config, in processes of their own, as a user starts them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sage_jax.config import LEARN, TRAINING_STAGES
from tests.support.forked import Forked

ROOT = Path(__file__).parents[2]
QUICK: dict[str, str | int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,  # with them, compiling takes twice as long
    "xla_cpu_parallel_codegen_split_count": 1,  # more parts take longer in all
}
"""Compiler options of tests' programs, which are small, run a few times and take longest to compile."""
QUICK_TO_COMPILE = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
"""The same as XLA_FLAGS."""
PROGRAM = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": QUICK_TO_COMPILE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
"""Variables of programs that run once. What one of them has compiled, the next one reads (tests/conftest.py)."""

TRAINED = tuple(name for name in TRAINING_STAGES if name != LEARN)
"""Training stages of the tiny run: `learn` trains in the folder of a version."""

CONFIG = ROOT / "tests" / "support" / "tiny_config.py"


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """A finished run.

    Attributes:
      folder: Holds the run's folder, its data cache and its compilations, for runs that go on from it.
      stdout, stderr: What it printed.
    """

    folder: Path
    stdout: str
    stderr: str

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text(encoding="utf-8"))


def start_main(
    folder: Path,
    *overrides: str,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    **options: Any,
) -> subprocess.Popen[str]:
    """Starts the program as a user does, from an interpreter of its own.

    Args:
      overrides: Fields; `run_dir` is `folder`/run unless overridden.
      environment: Variables beside this process's own; an empty one is taken out.
      before: Command that starts it.
      options: Of `subprocess.Popen`, such as other places for its output.
    """
    variables = os.environ | PROGRAM | dict(environment or {})
    variables = {name: value for name, value in variables.items() if value}
    command = [*before, sys.executable, "-m", *_command(folder, overrides)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, cwd=ROOT, env=variables, **given)


def fork_main(
    folder: Path, *overrides: str, environment: Mapping[str, str] | None = None, stderr: IO[Any] | None = None
) -> Forked:
    """Starts the program with what it imports imported already; `environment` as of `Forked`."""
    variables = os.environ | PROGRAM | dict(environment or {})
    return Forked(_command(folder, overrides), environment=variables, cwd=ROOT, stderr=stderr)


def compiled_in(folder: Path) -> dict[str, str]:
    """The variable by which a program keeps what it compiles in a folder of its own, `folder`/compiled."""
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}


def _command(folder: Path, overrides: Sequence[str]) -> list[str]:
    fields = (f"--config.run_dir={folder / 'run'}", f"--config.data.cache_dir={folder / 'cache'}")
    return ["sage_jax.main", "--config", str(CONFIG), *fields, *overrides]


def run_main(folder: Path, *overrides: str, expected: int = 0) -> TinyRun:
    """Runs the program to its end and checks its exit status."""
    process = fork_main(folder, *overrides)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == expected, stderr
    return TinyRun(folder, stdout, stderr)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
