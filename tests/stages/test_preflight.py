"""What would fail a late stage is refused before the first one works."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.config import TRAINING_STAGES, ConfigError
from sage_jax.config.command_line import read_config
from sage_jax.journal.run_log import RunLog
from sage_jax.process.files import locked
from sage_jax.stages import inspection
from sage_jax.stages.preflight import check_stages
from sage_jax.stages.run import Run, Stage
from sage_jax.stages.stages import run_stages
from sage_jax.stages.trained import TrainedStages
from tests.support.tiny_run import CONFIG


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.edpo.freeze=('vti/',)"], r"edpo\.freeze: 'vti/' matches no parameter; the nearest are 'vit/"),
        (["--config.sfe.batch_size=7", "--config.sfe.accumulate=1"], "sfe: micro-batches .* = 7 rows do not divide"),
        (["--config.inspect.images=/nope"], "inspect.images = '/nope': no such file or folder"),
        (["--config.inspect.references=/nope"], "inspect.references = '/nope': no such file or folder"),
        (["--config.mesh.data=3"], "mesh"),
        (["--config.stages=evaluate", "--config.model.attention=pallas"], "model.attention = 'pallas' is a kernel"),
        (
            ["--config.stages=prepare,ablate", "--config.ablate.stages=('edpo',)"],
            r"ablate.stages = \('edpo',\), seed 0: stage 'edpo' needs stage 'sfe'",
        ),
        (
            ["--config.stages=prepare,ablate", "--config.ablate.stages=('base',)", "--config.base.freeze=('vti/',)"],
            "base.freeze: 'vti/' matches no parameter",
        ),
        (
            ["--config.stages=prepare,base,evaluate", "--config.evaluate.stages=('edpo',)"],
            "stage 'evaluate' needs stage 'edpo'",
        ),
        (["--config.stages=base,inspect", "--config.inspect.stage=sfe"], "stage 'inspect' needs stage 'sfe'"),
    ],
)
def test_a_fault_of_a_late_stage_stops_the_run_before_any_work(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    # The eight devices of the tests share a batch of eight; overrides come last and win.
    sizes = [f"--config.{stage}.batch_size=8" for stage in TRAINING_STAGES]
    config = read_config(["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'run'}", *sizes, *overrides])
    with pytest.raises(ConfigError, match=message):
        check_stages(Run(config), config.stage_names)
    assert not (tmp_path / "run").exists()


def test_a_config_that_can_run_passes(tmp_path: Path) -> None:
    sizes = [f"--config.{stage}.batch_size=8" for stage in TRAINING_STAGES]
    config = read_config(["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'run'}", *sizes])
    check_stages(Run(config), (*config.stage_names, "ablate"))


def test_a_home_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fields = ["--config.run_dir=~/run", "--config.inspect.output=~/found"]
    run = Run(read_config(["--config", str(CONFIG), *fields]))
    assert (run.folder.path, run.config.run_dir) == (tmp_path / "run", str(tmp_path / "run"))
    assert run.config.inspect.output == str(tmp_path / "found")


def test_a_run_folder_that_another_process_works_in_is_named(tmp_path: Path) -> None:
    sizes = [f"--config.{stage}.batch_size=8" for stage in TRAINING_STAGES]
    fields = [f"--config.run_dir={tmp_path / 'run'}", "--config.stages=prepare"]
    with locked(tmp_path / "run"), pytest.raises(ConfigError, match="another process works in it"):
        run_stages(read_config(["--config", str(CONFIG), *sizes, *fields]))


def test_a_sample_of_no_test_records_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "prepared", property(lambda run: None))
    monkeypatch.setattr(TrainedStages, "__contains__", lambda trained, stage: True)
    monkeypatch.setattr(Run, "records", lambda run, split, wanted_by: [])
    run = Run(read_config(["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'run'}"]))
    with (
        RunLog(tmp_path, "inspect") as log,
        pytest.raises(ConfigError, match="no test records to inspect: name images"),
    ):
        inspection.inspect(Stage(run, "inspect", log))
