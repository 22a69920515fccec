"""The stage `rows`, and what stages do with rows that have no verdict or no two answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.config.command_line import read_config
from sage_jax.data.images import encode_png
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import checkpoint_folder
from tests.support.tiny_run import CONFIG, TinyRun, read_jsonl, run_main
from tests.support.trainer_rows import PREFERENCES, llava


def config_of(folder: Path, **fields: Any) -> Config:
    given = {"run_dir": folder / "run", "data.cache_dir": folder / "cache", "data.num_train": 4, "data.num_test": 2}
    overrides = [f"--config.{name}={value}" for name, value in (given | fields).items()]
    return read_config(["--config", str(CONFIG), *overrides])


def test_a_data_set_is_written_for_other_trainers_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages(config_of(tmp_path, stages="rows"))
    folder = tmp_path / "run" / "rows"
    assert {path.name for path in folder.iterdir()} == {
        *("train.jsonl", "test.jsonl", "adpl_train.json", "adpl_test.json", "images"),
    }
    assert len(read_jsonl(folder / "train.jsonl")) == 4 * 5 * 6
    assert "train.jsonl: 120 preference rows of TRL, pairs: all" in (tmp_path / "run/log.txt").read_text()
    elsewhere = {"rows.pairs": "extreme", "rows.folder": tmp_path / "there"}
    run_stages(config_of(tmp_path, stages="rows", **elsewhere))
    assert len(read_jsonl(tmp_path / "there" / "train.jsonl")) == 4 * 5
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="rows.folder: .*file cannot be written"):
        run_stages(config_of(tmp_path, stages="rows", **{"rows.folder": tmp_path / "file"}))
    again = {"data.source": "rows", "data.root": folder, "data.num_train": 0, "data.num_test": 0}
    capsys.readouterr()
    run_stages(config_of(tmp_path, stages="check", **again))
    printed = capsys.readouterr().out
    assert "no faults" in printed and "records        │     4 │    2" in printed


def write_rows(folder: Path, kinds: dict[str, Any]) -> Path:
    """Rows of each kind about two photographs, for both splits."""
    (folder / "rows").mkdir()
    rng, names = np.random.default_rng(0), ("a.png", "b.png")
    for name in names:
        (folder / "rows" / name).write_bytes(encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)))
    for split in ("train", "test"):
        rows = [make([name]) for name in names for make in kinds.values()]
        (folder / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows"


def test_stages_of_preferences_ask_for_two_answers(tmp_path: Path) -> None:
    root = write_rows(tmp_path, {"llava": llava})
    weights = checkpoint_folder(tmp_path / "InternVL-tiny")
    given = {
        "data.source": "rows",
        "data.root": root,
        "edpo.batch_size": 8,
        "model.weights": weights,
        "base_dpo.batch_size": 8,
        "sfe.batch_size": 8,
    }
    config = config_of(tmp_path, stages="base_dpo", **given)
    model = dataclasses.replace(Config().model, weights=str(weights), compute_dtype="float32")
    with pytest.raises(
        ConfigError, match="base_dpo learns from ranked answers, and no question of the training records has"
    ):
        run_stages(dataclasses.replace(config, model=model))
    with pytest.raises(ConfigError, match="edpo learns from ranked answers"):  # before sfe trains for hours
        run_stages(dataclasses.replace(config, model=model, stages="prepare,sfe,edpo"))


def test_questions_without_a_verdict_are_ranked_and_in_no_verdict_metric(tiny_run: TinyRun, tmp_path: Path) -> None:
    root = write_rows(tmp_path, {"trl": PREFERENCES["trl"], "llava": lambda images: {**llava(images), "id": "1"}})
    given = {"stages": "evaluate", "evaluate.stages": "('sfe',)", "data.source": "rows", "data.root": root}
    given |= {"data.num_train": 0, "data.num_test": 0, "evaluate.name": "rows", "run_dir": tmp_path / "run"}
    shutil.copytree(tiny_run.run_dir, tmp_path / "run")
    run_main(tiny_run.folder, *(f"--config.{name}={value}" for name, value in given.items()))
    folder = tmp_path / "run" / "evaluations" / "rows"
    scored = json.loads((folder / "summary.json").read_text())["metrics"]["sfe"]["zero_shot"]
    assert scored["without_verdict"] == 2 and scored["verdict_accuracy"]["n"] == scored["unparsable"] == 0
    assert scored["ranking_best_worst"]["n"] == 2 and scored["mle"]["value"] is None and scored["text_only"] == {}
    predictions = read_jsonl(folder / "predictions" / "sfe_zero_shot.jsonl")
    assert [row["ground_truth"] for row in predictions] == [None, None] and predictions[0]["mle"] is None
