"""A run whose devices tell their memory trains with what fits, and to the same end as if it had been given."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sage_jax.config.command_line import read_config
from sage_jax.parameters import Params
from sage_jax.stages import recompute
from sage_jax.stages.stages import run_stages
from sage_jax.training.finished import load_final
from tests.support.tiny_run import CONFIG, TinyRun

pytestmark = pytest.mark.usefixtures("one_device")


def trained(run: TinyRun, folder: Path, *fields: str) -> tuple[Params, str]:
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
    monkeypatch.setattr(recompute, "smallest_limit", lambda: 1)
    scarce, line = trained(tiny_run, tmp_path / "scarce", "plan.prompt_tokens=9999")  # data are measured, not planned
    found = re.search(r"remat = full \(auto: .*: none (\S+), dots (\S+), full (\S+)\)", line)
    assert found
    none, dots, full = map(float, found.groups())
    assert none > dots > full > 0.0
    monkeypatch.setattr(recompute, "smallest_limit", lambda: int(1e9 * (none + dots) / 2 / 0.92))
    _, line = trained(tiny_run, tmp_path / "less")
    assert "remat = dots (auto" in line
    given, line = trained(tiny_run, tmp_path / "given", "model.remat=full")
    assert line.endswith("remat = full")
    for path in given:
        np.testing.assert_array_equal(scarce[path], given[path], err_msg=path)
