"""Huge pages: asked for once, where the kernel waits to be asked, and never against the user's own setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.allocator import environment_with_huge_pages

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
        "import os, sys\nfrom sage_jax.allocator import restart_with_huge_pages\n"
        "print(os.getpid(), flush=True)\nrestart_with_huge_pages()\n"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:], __package__)\n"
    )
    (tmp_path / "__init__.py").touch()
    command = [sys.executable, "-u", "-m", f"{tmp_path.name}.program", "--a=b c", ""]
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path.parent)])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second, last = done.stdout.splitlines()
    assert first == second
    assert last == f"glibc.malloc.hugetlb=1 ['--a=b c', ''] {tmp_path.name}"
