"""Stage `ablate`: seeds in runs of their own, and one table over them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sage_jax.config.command_line import read_config
from sage_jax.stages.ablation import seed_run
from sage_jax.stages.run import Run
from tests.support.tiny_run import CONFIG, TinyRun, run_main


def test_the_ablation_is_written_over_seeds_and_leaves_done_seeds_as_they_are(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run.folder / "compiled", tmp_path / "compiled")
    run_main(tmp_path, "--config.stages=ablate", "--config.ablate.seeds=(0,)")
    first = tmp_path / "run" / "seed_0"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("DONE.json")}
    predictions = first / "predictions" / "base_one_shot.jsonl"
    scored = predictions.stat().st_mtime_ns
    assert len(before) == 1
    again = run_main(tmp_path, "--config.stages=ablate", "--config.ablate.seeds=(0, 1)")
    for mode in ("zero-shot", "one-shot"):
        assert again.stderr.count(f"base, {mode}: scored before, with the same model, data and config") == 1
    assert {path: path.stat().st_mtime_ns for path in first.rglob("DONE.json")} == before
    assert predictions.stat().st_mtime_ns == scored
    ablation = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert ablation["seeds"] == [0, 1]
    for seed in (0, 1):
        summary = json.loads((tmp_path / "run" / f"seed_{seed}" / "summary.json").read_text())
        for mode in ("zero_shot", "one_shot"):
            value = summary["metrics"]["base"][mode]["mle"]["value"]
            assert ablation["rows"]["base"][mode]["mle"]["values"][str(seed)] == pytest.approx(value)
    assert (tmp_path / "run" / "ablation.md").read_text().startswith("# Ablation over seeds 0, 1")
    revisions = [json.loads((tmp_path / "run" / f"seed_{s}" / "data.json").read_text())["revision"] for s in (0, 1)]
    assert revisions[0] != revisions[1]


def test_a_seeds_run_differs_by_its_folder_its_seed_and_what_is_evaluated(tmp_path: Path) -> None:
    config = read_config(["--config", str(CONFIG), f"--config.run_dir={tmp_path}"])
    one = seed_run(Run(config), 5).config
    assert (one.run_dir, one.seed) == (str(tmp_path / "seed_5"), 5)
    assert one.evaluate == dataclasses.replace(config.evaluate, stages=config.ablate.stages)
    assert dataclasses.replace(one, run_dir=config.run_dir, seed=config.seed, evaluate=config.evaluate) == config
