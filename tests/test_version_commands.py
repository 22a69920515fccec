"""Commands that compute nothing: versions of a run, and its corrections as files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from sage_jax.cli import main
from sage_jax.config import Config
from sage_jax.corrections.store import store_of
from sage_jax.data.images import encode_png
from sage_jax.process.checksums import sealed_json
from sage_jax.stages.versions import active_version, version_folder
from tests.support.corrected import finding


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one version and two corrections."""
    folder = tmp_path / "run"
    version_folder(folder, 1).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(Config())))
    gain = {"gain": {"value": 0.125}}
    report = {"version": 1, "from_version": 0, "time": 0.0, "why": "offered: nothing fell", "offered": True}
    content = sealed_json(report | {"measures": {"corrections_held_out": gain}})
    (version_folder(folder, 1) / "learned.json").write_text(json.dumps(content))
    (version_folder(folder, 1) / "config.json").write_text(json.dumps(dataclasses.asdict(Config())))
    store = store_of(folder)
    for shade in (1, 2):
        number = store.add_inspection(finding(image=encode_png(np.full((32, 32, 3), shade, np.uint8)), references=()))
        store.correct(number, "Ada", kind="dent")
    return folder


def test_versions_are_listed_and_chosen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "as it was trained" in shown and "+12.5%" in shown and "version 1: offered: nothing fell" in shown
    assert main(["use", str(run), "--version", "1"]) == 0
    assert active_version(run) == 1 and "version 1 answers" in capsys.readouterr().out
    assert main(["use", str(run), "--version", "7"]) == 2
    assert "has 0, 1" in capsys.readouterr().err
    assert main(["use", str(run), "--version", "0"]) == 0
    assert active_version(run) == 0


@pytest.mark.parametrize("version", ["0", "1"])
def test_corrections_are_written_whichever_version_answers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    assert main(["use", str(run), "--version", version]) == 0
    assert main(["corrections", "export", str(run), "--to", str(tmp_path / "out"), "--pairs", "extreme"]) == 0
    assert "30 preference rows" in capsys.readouterr().out
    assert len((tmp_path / "out" / "corrections.jsonl").read_text().splitlines()) == 30
    assert len(json.loads((tmp_path / "out" / "adpl_corrections.json").read_text())) == 6


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", str(tmp_path)]) == 2
    assert "there is no run here" in capsys.readouterr().err
    assert main(["corrections", "export", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    assert "no model is here" in capsys.readouterr().err
