"""A run whose devices tell their memory trains with what fits, and to the same end as if it had been given."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sage_jax.config.command_line import read_config
from sage_jax.stages import device_memory
from sage_jax.stages.device_memory import smallest_memory
from sage_jax.stages.stages import run_stages
from sage_jax.training.finished import load_final
from tests.support.tiny_run import CONFIG, TinyRun


def trained(run: TinyRun, folder: Path, *fields: str) -> tuple[dict[str, np.ndarray], str]:
    """Parameters of a stage trained in this process on the data of a run, and the line on how it computes."""
    shutil.copytree(run.folder / "cache", folder / "cache")
    given = (
        f"run_dir={folder / 'run'}",
        f"data.cache_dir={folder / 'cache'}",
        "stages=base",
        "base.steps=2",
        "base.batch_size=8",
        *fields,
    )
    run_stages(read_config(["--config", str(CONFIG), *(f"--config.{field}" for field in given)]))
    (line,) = (line for line in (folder / "run" / "log.txt").read_text().splitlines() if "attention = " in line)
    return load_final(folder / "run" / "stages" / "base"), line


def test_a_stage_takes_what_fits_into_the_memory_that_its_devices_tell(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "smallest_memory", lambda devices: 1)
    scarce, line = trained(tiny_run, tmp_path / "scarce")
    found = re.search(r"remat = full \(auto: .*: none (\S+), dots (\S+), full (\S+)\)", line)
    assert found
    none, dots, full = map(float, found.groups())
    assert none > dots > full > 0.0
    monkeypatch.setattr(device_memory, "smallest_memory", lambda devices: int(1e9 * (none + dots) / 2 / 0.92))
    _, line = trained(tiny_run, tmp_path / "less")
    assert "remat = dots (auto" in line
    given, line = trained(tiny_run, tmp_path / "given", "model.remat=full")
    assert line.endswith("remat = full")
    for path in given:
        np.testing.assert_array_equal(scarce[path], given[path], err_msg=path)


def test_a_cpu_computes_nothing_again() -> None:
    assert smallest_memory(jax.local_devices()) is None


def test_the_device_with_the_least_memory_counts_and_one_that_does_not_tell_leaves_it_open() -> None:
    def device(stats: dict[str, int] | None) -> SimpleNamespace:
        return SimpleNamespace(memory_stats=lambda: stats)

    two = [device({"bytes_limit": 80}), device({"bytes_limit": 60})]
    assert smallest_memory(two) == 60
    assert smallest_memory([*two, device(None)]) is None
    assert smallest_memory([*two, device({"bytes_in_use": 1})]) is None
