"""The command: its help comes at once, every field is an option, and a wrong one leads to the right one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sage_jax import cli
from sage_jax.config import Config, field_meanings, field_paths
from sage_jax.config.shipped import shipped_configs
from tests.support.photographs import write_photographs
from tests.support.tiny_run import CONFIG, ROOT, TinyRun


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "sage_jax", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configs that commands would run."""
    found: list[Config] = []

    def take(config: Config) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(cli, "_run", take)
    return found


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a wrong command line ends with, status 2."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("error: ")
    return line


def test_help_and_version_come_without_jax() -> None:
    program = (
        "import sys; from sage_jax.cli import main; main(['--help']);"
        "print('LOADED', sorted({'jax', 'flax', 'transformers', 'grain'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    assert ended.stdout.splitlines()[-1] == "LOADED []"
    commands = (
        "inspect",
        "serve",
        "train",
        "evaluate",
        "judge",
        "calibrate",
        "benchmark",
        "export",
        "plan",
        "check",
        "configs",
    )
    for command in (*commands, "--install-completion"):
        assert re.search(rf"^.{{0,3}}{command}\b", ended.stdout, re.MULTILINE), command
    assert seconds < 5, "far below the second that it takes alone, on a machine with other work"
    assert re.fullmatch(r"\d\S*\n", run("--version").stdout)


def test_help_of_train_has_every_field_with_its_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no name is cut
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    squeezed = re.sub(r"[\s│]", "", text)
    sections = {path.rpartition(".")[0] for path in field_paths()}
    for path in field_paths():
        if path not in sections:
            assert f"--{path.replace('_', '-')}" in squeezed, path
    for name, meaning in field_meanings(Config).items():
        if name in sections:
            continue
        assert re.sub(r"[\s`*_]", "", meaning) in re.sub(r"[\s│`*_]", "", text)


@pytest.mark.parametrize(
    "command", ["inspect", "evaluate", "judge", "calibrate", "benchmark", "export", "plan", "check"]
)
def test_help_of_a_command_has_its_section(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    section = {"check": "data", "calibrate": "inspect"}.get(command, command)
    assert f"--{section}." in capsys.readouterr().out


def test_options_replace_fields_of_every_kind(ran: list[Config]) -> None:
    options = ["--run-dir", "there", "--seed", "7", "--sfe.steps", "50", "--sfe.peak-learning-rate", "1"]
    options += ["--model.vit.qk-norm", "--model.vit.no-qkv-bias", "--model.fusion.similarity", "aligned"]
    options += ["--data.held-out", "gear", "--data.held-out", "pill", "--ablate.seeds", "4"]
    assert cli.main(["train", str(CONFIG), *options]) == 0
    (config,) = ran
    assert (config.run_dir, config.seed, config.sfe.steps, config.sfe.peak_learning_rate) == ("there", 7, 50, 1.0)
    assert (config.model.vit.qk_norm, config.model.vit.qkv_bias) == (True, False)
    assert (config.model.fusion.similarity, config.data.held_out, config.ablate.seeds) == (
        "aligned",
        ("gear", "pill"),
        (4,),
    )
    assert cli.main(["train", str(CONFIG)]) == 0
    assert ran[1].edpo == config.edpo and ran[1].sfe != config.sfe


def test_commands_of_a_run_take_its_config(ran: list[Config], tiny_run: TinyRun) -> None:
    folder = str(tiny_run.run_dir)
    assert cli.main(["inspect", "photos", "--model", folder, "--references", "good", "--threshold", "0.3"]) == 0
    assert cli.main(["evaluate", folder, "--evaluate.batch-size", "3"]) == 0
    assert cli.main(["export", folder, "--export.folder", "out"]) == 0
    inspected, evaluated, exported = ran
    assert cli.main(["judge", folder, "--judge.base-url", "http://localhost:8000/v1", "--judge.model", "m"]) == 0
    judged = ran.pop()
    assert (judged.stages, judged.judge.base_url, judged.judge.model) == ("judge", "http://localhost:8000/v1", "m")
    assert {config.run_dir for config in ran} == {folder}
    assert [config.stages for config in ran] == ["inspect", "evaluate", "export"]
    assert (inspected.inspect.images, inspected.inspect.references, inspected.inspect.threshold) == (
        "photos",
        "good",
        0.3,
    )
    assert (evaluated.evaluate.batch_size, exported.export.folder) == (3, "out")
    assert cli.main(["calibrate", "parts", "--model", folder, "--defective", "bad", "--false-alarms", "0.1"]) == 0
    chosen = ran[-1].calibrate
    assert ran[-1].inspect.threshold < 0.0
    assert (ran[-1].stages, chosen.good, chosen.defective, chosen.false_alarm_rate) == (
        "calibrate",
        "parts",
        "bad",
        0.1,
    )
    assert chosen.unsure_rate == 0.02
    assert cli.main(["calibrate", "parts", "--model", folder, "--defective", "bad", "--escapes", "0.1"]) == 0
    assert (ran[-1].calibrate.escape_rate, ran[-1].calibrate.defective) == (0.1, "bad")
    assert cli.main(["calibrate", "parts", "--model", folder, "--unsure", "0"]) == 0
    assert (ran[-1].calibrate.unsure_rate, ran[-1].calibrate.false_alarm_rate) == (0.0, 0.05)
    options = ["--benchmark.shots", "0", "--benchmark.shots", "4", "--images", "photos"]
    assert cli.main(["benchmark", "mmad", "mmad.json", "--model", folder, *options]) == 0
    asked = ran[-1].benchmark
    assert (ran[-1].stages, asked.name, asked.root, asked.images_root) == ("benchmark", "mmad", "mmad.json", "photos")
    assert asked.shots == (0, 4) and ran[-1].run_dir == folder
    assert cli.main(["plan", "sage_8b", "--plan.num-devices", "8"]) == 0
    assert (ran[-1].stages, ran[-1].plan.num_devices) == ("plan", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sfe.stps", "5"], "--sfe.stps: no such option; did you mean --sfe.steps?"),
        (["--sfe.lr", "1"], "did you mean --sfe.peak-learning-rate?"),
        (["--output-dir", "x"], "did you mean --run-dir?"),
        (["--device", "gpu"], "JAX_PLATFORMS"),
        (["--zzzzz", "1"], "there are run_dir"),
        (["--sfe.steps", "many"], "steps"),
        (["--sfe.accumulate", "3"], "does not divide"),
        (["--stages", "nonsense"], "'nonsense' is no stage"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_way_out(
    options: list[str], message: str, ran: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(["train", str(CONFIG), *options], capsys)
    assert message in line and ran == []


def test_missing_models_configs_and_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sage-jax train quickstart" in said(["inspect", "x", "--model", str(tmp_path)], capsys)
    assert "--model" in said(["inspect", "x"], capsys)
    assert "there are ablation, deeppcb, deeppcb_paper, own_parts, quickstart" in said(
        ["train", "no_such_config"], capsys
    )
    assert "there is no shipped config" in said(["configs", "nothing"], capsys)
    folder = tmp_path / "InternVL"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "internvl"}', encoding="utf-8")
    line = said(["benchmark", "mmmad", "x", "--model", str(folder)], capsys)
    assert "config.benchmark.name = 'mmmad' is none of mmad, manta; did you mean 'mmad'?" in line
    assert "nosuchcommand" in said(["nosuchcommand"], capsys)


def test_configs_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["configs"]) == 0
    listed = capsys.readouterr().out
    for name, path in shipped_configs().items():
        assert re.search(rf"^{name} +\S", listed, re.MULTILINE) and path.is_file()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["configs", "quickstart", "--to", "mine.py"]) == 0
    assert Path("mine.py").read_bytes() == shipped_configs()["quickstart"].read_bytes()
    capsys.readouterr()
    assert "mine.py is there already" in said(["configs", "quickstart", "--to", "mine.py"], capsys)


def test_inspect_prints_a_summary_of_this_inspection_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.run_dir, tmp_path / "run")
    write_photographs(tmp_path)
    arguments = ["inspect", str(tmp_path / "images"), "--model", str(tmp_path / "run"), "--output", str(tmp_path / "o")]
    ended = run(*arguments, "--references", str(tmp_path / "references"))
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"4 images: .*1 unreadable.*; \d+\.\d\d s an image\n", ended.stdout)
    assert "a.png" in ended.stdout and f"report: {tmp_path / 'o' / 'report.html'}" in ended.stdout
    assert "Acc-G" not in ended.stdout and "sfe" not in ended.stdout
    assert "PyTorch" not in ended.stderr and "Warning" not in ended.stderr


def test_a_field_that_a_command_does_not_read_is_no_option_of_it(capsys: pytest.CaptureFixture[Any]) -> None:
    assert "the command `train` takes every field" in said(["check", str(CONFIG), "--sfe.steps", "3"], capsys)
