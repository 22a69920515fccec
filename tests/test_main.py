"""The program from outside: exit status and one clear message for everything that a user can mend."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.main import main
from tests.support.tiny_run import CONFIG, ROOT, TinyRun


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the program ends with, status 2."""
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_wrong_command_line_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "sage_jax.main", "--config", str(CONFIG), "--config.sfe.stps=3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: --config.sfe.stps: no such field; did you mean --config.sfe.steps?\n"


def test_several_processes_without_a_cluster_are_one_line() -> None:
    command = [sys.executable, "-m", "sage_jax.main", "--config", str(CONFIG)]
    named = ("SLURM_", "OMPI_", "KUBERNETES_", "PMI_", "JAX_COORD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    environment |= {"SAGE_JAX_DISTRIBUTED": "1", "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: SAGE_JAX_DISTRIBUTED=1, but the processes do not find")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["--config", "x.py", "--help"]])
def test_help_shows_how_to_start(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "python -m sage_jax.main --config FILE" in capsys.readouterr().out


def test_no_config_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert said([], capsys).startswith("error: there is no config file: give one")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.stages=sfe"], "run with --config.stages=base,sfe"),
        (["--config.stages=prepare", "--config.data.held_out=('nut',)"], "data.held_out"),
        (["--config.stages=prepare", "--config.data.vocabulary=nowhere.toml"], "nowhere.toml"),
        (["--config.stages=prepare", "--config.text.vocab_size=100"], "text.vocab_size = 100: bytes"),
        (["--config.stages=base", "--config.mesh.data=3"], "mesh"),
        (["--config.stages=check", "--config.data.source=mvtec", "--config.data.root=nowhere"], "nowhere"),
        (["--config.stages=prepare", "--config.data.source=adpl", "--config.data.root=nowhere.json"], "nowhere.json"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    overrides: list[str], message: str, tmp_path: Path, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
    assert main(["--config", str(CONFIG), *folders, *overrides]) == 2
    captured = capsys.readouterr()
    errors = re.findall(r"^error: .*", captured.err, re.MULTILINE)
    assert len(errors) == 1 and captured.err.splitlines()[-1] == errors[0]
    assert message in errors[0]
    assert "Traceback" not in captured.err


def test_a_fault_of_the_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = {"pair_type": "standard comparison", "test_image": "a.png", "reference_image": "b.png"}
    (tmp_path / "items.json").write_text(json.dumps([{**item, "question_answer": []}]), encoding="utf-8")
    fields = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path / 'cache'}"]
    source = ["--config.data.source=adpl", f"--config.data.root={tmp_path / 'items.json'}", "--config.stages=prepare"]
    assert main(["--config", str(CONFIG), *fields, *source]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and "items.json" in last and "data.on_bad_record=skip" in last


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.model.vit.qk_norm", "was trained with another config: model.vit.qk_norm: False -> True"),
        ("--config.text.buckets=(16,)", "text.buckets"),
        ("--config.text.max_fact_tokens=2", "raise text.max_fact_tokens"),
    ],
)
def test_what_does_not_fit_the_trained_models_is_told(
    override: str, message: str, tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run.run_dir, tmp_path / "run")
    fields = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
    assert main(["--config", str(CONFIG), *fields, "--config.stages=evaluate", override]) == 2
    errors = re.findall(r"^error: .*", capsys.readouterr().err, re.MULTILINE)
    assert len(errors) == 1 and message in errors[0]
