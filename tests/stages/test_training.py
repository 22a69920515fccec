"""Training stages of a run: what they move, log and compile, and what they are given."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sage_jax
from sage_jax.config import ConfigError, DataConfig, from_config_dict
from sage_jax.config.command_line import read_config
from sage_jax.data.images import encode_png
from sage_jax.data.records import PAIR_TYPES
from sage_jax.parameters import Params
from sage_jax.process.checksums import open_json
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.scoring import results_folder
from sage_jax.stages.training import StageRecords
from sage_jax.training.checkpoint import StageCheckpoints
from tests.support.stream_records import make_record
from tests.support.tiny_run import CONFIG, TRAINED, TinyRun, read_jsonl


def test_metrics_have_a_row_for_every_step_and_the_preference_statistics(tiny_run: TinyRun) -> None:
    rows = read_jsonl(tiny_run.run_dir / "metrics.jsonl")
    config = read_config(["--config", str(CONFIG)])
    for stage in TRAINED:
        steps = [row["step"] for row in rows if row["stage"] == stage]
        assert steps == list(range(1, config.training(stage).steps + 1))
        assert list((tiny_run.run_dir / "tensorboard" / stage).iterdir())
    wanted = {
        "reward_margin",
        "ranking_best_worst",
        "ranking_adjacent",
        "chosen_logps",
        "rejected_logps",
        "extreme_gap",
    }
    assert all(wanted <= row.keys() for row in rows if row["stage"] in ("dpo", "edpo"))
    losses = [row["loss"] for row in rows if row["stage"] == "base"]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_loss_plot_is_a_picture(tiny_run: TinyRun) -> None:
    with Image.open(tiny_run.run_dir / "loss.png") as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 100


def test_trained_parameters_move_and_frozen_ones_do_not(tiny_run: TinyRun) -> None:
    config = from_config_dict(json.loads((tiny_run.run_dir / "config.json").read_text()))
    run = Run(config)
    base, sfe = (run.weights.merged(stage, wanted_by="test") for stage in ("base", "sfe"))
    moved = {path for path in base if (base[path] != sfe[path]).any()}
    assert not [path for path in moved if path.startswith("vit/")]
    assert {path.split("/")[0] for path in moved} >= {"adapter", "decoder", "fusion"}


def test_the_log_tells_how_training_computes_and_what_it_compiled(tiny_run: TinyRun) -> None:
    told = (tiny_run.run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    for stage in TRAINED:
        mine = [line for line in told if f" {stage}: " in line]
        assert sum("attention = tree, remat = none" in line for line in mine) == 1
        shapes = sum("compiled for" in line for line in mine)
        assert shapes == tiny_run.summary()["stages"][stage]["compilations"]


def test_records_are_those_that_train_and_those_that_validate() -> None:
    stored = [make_record(index, np.random.default_rng(index)) for index in range(5)]
    records = StageRecords(stored, [0, 3, 4], [1])
    assert [records.stored[index] for index in records.kept] == [stored[0], stored[3], stored[4]]
    assert [records.stored[index] for index in records.held_out] == [stored[1]]


def _questions(folder: Path, name: str, number: int) -> Path:
    """AD-PL's JSON with so many items on images of their own."""
    rng, items = np.random.default_rng(number), []
    answers = ["Yes. It has a scratch.", "Yes, a dent.", "No. It is whole.", "No."]
    for index in range(number):
        image = folder / name / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)))
        asked = [
            {"question_en": f"Is part {each} broken?", "answer_options": [{"answer_en": text} for text in answers]}
            for each in range(5)
        ]
        items.append(
            {"pair_type": PAIR_TYPES[index % 3], "test_image": f"{name}/{index}.png", "question_answer": asked}
        )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def _plots_when_marked_whole(plot: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The plot of losses as it is whenever parameters begin to be written for good."""
    found: list[bytes] = []
    save_final = StageCheckpoints.save_final

    def saved(self: StageCheckpoints, params: Params, *, config_json: str) -> None:
        found.append(plot.read_bytes())
        save_final(self, params, config_json=config_json)

    monkeypatch.setattr(StageCheckpoints, "save_final", saved)
    return found


def test_each_stage_may_train_on_data_of_its_own(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1 on one set of questions, stage 2 on another, tested on a third, as the paper does."""
    drawn = _plots_when_marked_whole(tmp_path / "run" / "loss.png", monkeypatch)
    run_dir = Path(shutil.copytree(tiny_run.run_dir, tmp_path / "run"))
    for stage in (run_dir / "stages").iterdir():
        if stage.name != "base":
            shutil.rmtree(stage)
    files = {name: _questions(tmp_path, name, number) for name, number in (("one", 8), ("two", 9), ("three", 4))}
    config = config_of(run_dir)
    data = DataConfig(
        source="adpl",
        root=str(files["three"]),
        cache_dir=str(tmp_path / "cache"),
        num_train=0,
        num_test=0,
        test_fraction=1.0,
    )
    short = {"batch_size": 8, "steps": 2}
    config = dataclasses.replace(
        config,
        data=data,
        sfe=dataclasses.replace(config.sfe, data_root=str(files["one"]), **short),
        edpo=dataclasses.replace(config.edpo, data_root=str(files["two"]), **short),
    )
    sage_jax.train(config, stages="check,sfe,edpo")
    assert len(drawn) == 2 and drawn[-1] == (run_dir / "loss.png").read_bytes(), "a kill behind the mark would lose it"
    counts = {stage: open_json((run_dir / "stages" / stage / "data.json").read_text()) for stage in ("sfe", "edpo")}
    assert (counts["sfe"]["train"], counts["edpo"]["train"]) == (8, 9)
    assert counts["sfe"]["revision"] != counts["edpo"]["revision"]
    assert counts["sfe"]["tested_on"] == counts["edpo"]["tested_on"] == Run(config).prepared.revision
    run = Run(config)
    assert len(run.records("test", wanted_by="evaluate")) == 4 and results_folder(run) == run_dir
    untrained = dataclasses.replace(config, edpo=dataclasses.replace(config.edpo, data_root=""))
    shutil.rmtree(run_dir / "stages" / "edpo")
    with pytest.raises(ConfigError, match="no training records"):
        sage_jax.train(untrained, stages="edpo")


def test_a_generator_has_no_files_for_a_stage_of_its_own() -> None:
    config = read_config(["--config", str(CONFIG)])
    with pytest.raises(ConfigError, match="sfe.data_root"):
        dataclasses.replace(config, sfe=dataclasses.replace(config.sfe, data_root="elsewhere.json"))
    with pytest.raises(ConfigError, match="without data_root"):
        dataclasses.replace(config.sfe, data_images_root="images")
    with pytest.raises(ConfigError, match="data_source = 'rows' without data_root"):
        dataclasses.replace(config.sfe, data_source="rows")
    rows = dataclasses.replace(config.sfe, data_root="rows.jsonl", data_source="rows")
    assert dataclasses.replace(config, sfe=rows).data_of("sfe").source == "rows"
