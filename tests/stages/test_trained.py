"""The finished stages of a run, by what lies in its folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import Config, ConfigError, LoraConfig
from sage_jax.process.checksums import sealed_json
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.run import Run
from sage_jax.stages.trained import TrainedStages
from sage_jax.training.finished import final_weights
from tests.support.tiny_export import TRAINED_HERE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path_factory.mktemp("run"))))


def test_finished_stages_come_in_the_order_of_training(run: Run) -> None:
    assert list(run.trained) == ["base", "sfe"] and run.trained.last() == "sfe"
    assert "edpo" not in run.trained and not run.trained.is_imported("base")
    assert run.trained.data_revisions == {"ab" * 32}


def test_an_earlier_stage_does_not_answer_for_one_whose_seal_is_lost(run: Run, tmp_path: Path) -> None:
    """Only if it is named; a stage that is still training has no final parameters, and the one before it answers."""
    shutil.copytree(run.folder.stages, tmp_path / "stages")
    trained = TrainedStages(RunFolder(tmp_path), None)
    (tmp_path / "stages" / "edpo" / "checkpoints" / "2").mkdir(parents=True)
    assert trained.last() == "sfe"
    (tmp_path / "stages" / "sfe" / "DONE.json").unlink()
    with pytest.raises(ConfigError, match=r"sfe: final is there without DONE.json: run --config.stages=sfe"):
        trained.last()
    assert "base" in trained and "sfe" not in trained
    shutil.rmtree(tmp_path / "stages" / "sfe")
    assert trained.last() == "base"


def test_a_stage_starts_from_the_weights_of_the_one_before(run: Run) -> None:
    assert run.trained.start_hash("base") == ""
    assert run.trained.start_hash("sfe") == final_weights(run.folder.stage("base")) != ""
    assert run.trained.lineage("edpo") == ["base", "sfe", "edpo"]


def test_what_is_missing_is_told_with_the_stages_to_run(run: Run) -> None:
    error = run.trained.missing("edpo", wanted_by="export")
    assert isinstance(error, ConfigError) and str(error).endswith("run with --config.stages=edpo,export")
    nothing = TrainedStages(RunFolder(Path("nowhere")), None)
    assert "--config.stages=base,sfe,edpo,export" in str(nothing.missing("edpo", wanted_by="export"))
    assert nothing.last() is None and nothing.data_revisions == set()
    assert run.trained.to_answer("", wanted_by="inspect") == run.trained.last()
    assert run.trained.to_answer("base", wanted_by="inspect") == "base"
    with pytest.raises(ConfigError, match="run with --config.stages=base,sfe,inspect"):  # not `base`, useless alone
        nothing.to_answer("", wanted_by="inspect")


def test_published_weights_stand_in_for_the_base(tmp_path: Path) -> None:
    class Published:
        def fingerprint(self) -> str:
            return "of the checkpoint"

    checkpoint: Any = Published()
    trained = TrainedStages(RunFolder(tmp_path), checkpoint)
    assert list(trained) == ["base"] and trained.is_imported("base")
    assert trained.start_hash("sfe") == "of the checkpoint" and trained.lora("base") == LoraConfig()
    assert "--config.stages=sfe,evaluate" in str(trained.missing("sfe", wanted_by="evaluate"))


def test_lora_is_that_of_the_training_and_not_of_todays_config(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder.stages, tmp_path / "stages")
    trained = TrainedStages(RunFolder(tmp_path), None)
    assert trained.lora("sfe") == LoraConfig()
    adapted = LoraConfig(rank=4, targets=("decoder/", "adapter/"))
    config: Config = dataclasses.replace(TRAINED_HERE, sfe=dataclasses.replace(TRAINED_HERE.sfe, lora=adapted))
    about = {"weights": "", "config": json.loads(json.dumps(dataclasses.asdict(config)))}
    (tmp_path / "stages" / "sfe" / "DONE.json").write_text(json.dumps(sealed_json(about)))
    assert trained.lora("sfe") == adapted
