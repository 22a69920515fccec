"""Huge pages and kept memory: asked for once, where they help, and never against the user's own setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.process.allocator import environment_with_huge_pages
from tests.support.tiny_run import CONFIG

KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ASKS = "always [madvise] never\n"


def test_they_are_asked_for_beside_other_tunables() -> None:
    assert environment_with_huge_pages({"A": "b"}, ASKS) == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    found = environment_with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.perturb=3"}, ASKS)
    assert found == {"GLIBC_TUNABLES": "glibc.malloc.perturb=3:glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("tunables", "kernel"),
    [
        ("glibc.malloc.hugetlb=1", ASKS),
        ("glibc.malloc.hugetlb=0", ASKS),
        ("", "[always] madvise never\n"),
        ("", "always madvise [never]\n"),
        ("", ""),
    ],
)
def test_nothing_changes_where_they_are_set_or_of_no_use(tunables: str, kernel: str) -> None:
    assert environment_with_huge_pages({"GLIBC_TUNABLES": tunables}, kernel) is None


@pytest.mark.skipif(not KERNEL.exists() or "[madvise]" not in KERNEL.read_text(), reason="the kernel does not wait")
def test_a_program_starts_again_with_its_own_arguments_and_number(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, sys\nfrom sage_jax.process.allocator import restart_with_huge_pages\n"
        "print(os.getpid(), flush=True)\nrestart_with_huge_pages()\n"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:], __package__)\n"
    )
    (tmp_path / "__init__.py").touch()
    command = [sys.executable, "-u", "-m", f"{tmp_path.name}.program", "--a=b c", ""]
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path.parent)])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second, last = done.stdout.splitlines()
    assert first == second
    assert last == f"glibc.malloc.hugetlb=1 ['--a=b c', ''] {tmp_path.name}"


COMPUTES = """
import resource, sys
from sage_jax.main import main
assert main(sys.argv[1:]) == 0
import jax, jax.numpy as jnp
large = jax.jit(lambda x: (jnp.outer(x, x) + 1.0) @ x)  # 64 MB of it for the intermediate
x = jnp.ones(4096)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):  # until the heap has found its size
    jax.block_until_ready(large(x))
before = faults()
for _ in range(4):
    jax.block_until_ready(large(x))
print("faults", faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library's allocator")
@pytest.mark.parametrize(("tunables", "kept"), [("", True), ("glibc.malloc.trim_threshold=131072", False)])
def test_what_the_program_computes_takes_what_it_freed_before(tmp_path: Path, tunables: str, kept: bool) -> None:
    environment = {**os.environ, "GLIBC_TUNABLES": tunables, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    fields = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path}", "--config.stages=check"]
    done = subprocess.run(
        [sys.executable, "-c", COMPUTES, "--config", str(CONFIG), *fields],
        **{"env": environment, "capture_output": True, "text": True, "check": True, "timeout": 300},
    )
    pages = 4 * 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    # Beside other programs the heap finds its size late, and may still grow by two of the four; else all four fault.
    assert (int(done.stdout.split()[-1]) < 0.7 * pages) is kept
