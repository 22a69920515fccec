"""Stage `ablate`: seeds in runs of their own, and one table over them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sage_jax.config import AblateConfig, ConfigError
from sage_jax.config.command_line import read_config
from sage_jax.stages.ablation import seed_run, variants
from sage_jax.stages.run import Run
from tests.support.tiny_run import CONFIG, TinyRun, run_main


def test_the_ablation_is_written_over_seeds_and_leaves_done_seeds_as_they_are(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
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


def test_facts_and_patches_vary_one_at_a_time(tmp_path: Path) -> None:
    config = read_config(["--config", str(CONFIG), f"--config.run_dir={tmp_path}"])
    assert variants(config) == {"": config}
    config = dataclasses.replace(
        config, ablate=AblateConfig(stages=("base", "sfe"), max_facts=(2, 6), num_distinct=(3,))
    )
    found = variants(config)
    assert [*found] == ["max_facts_2", "max_facts_6", "num_distinct_3"]
    sizes = [(each.text.max_facts, each.model.fusion.num_distinct) for each in found.values()]
    own = (config.text.max_facts, config.model.fusion.num_distinct)
    assert sizes == [(2, own[1]), (6, own[1]), (own[0], 3)]
    one = seed_run(Run(config), 5, "max_facts_6").config
    assert (one.run_dir, one.seed, one.text.max_facts) == (str(tmp_path / "max_facts_6" / "seed_5"), 5, 6)
    with pytest.raises(ConfigError, match="max_facts"):
        AblateConfig(max_facts=(2, 2))
    with pytest.raises(ConfigError, match="num_distinct"):
        AblateConfig(num_distinct=(0,))


def test_a_variant_is_trained_scored_and_compared(tiny_run: TinyRun, tmp_path: Path) -> None:
    done = run_main(
        tmp_path,
        "--config.stages=ablate",
        "--config.ablate.seeds=(0,)",
        "--config.ablate.max_facts=(1,)",
    )
    sweep = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert sweep["model"] == "base" and [*sweep["rows"]] == ["max_facts_1"]
    folder = tmp_path / "run" / "max_facts_1" / "seed_0"
    scored = json.loads((folder / "summary.json").read_text())["metrics"]["base"]["one_shot"]["mle"]["value"]
    assert sweep["rows"]["max_facts_1"]["one_shot"]["mle"]["median"] == pytest.approx(scored)
    assert json.loads((folder / "config.json").read_text())["text"]["max_facts"] == 1
    assert "Stage base by variant" in done.stdout
