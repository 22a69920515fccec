"""Stage `inspect`: which model answers, where results go, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from sage_jax.config import ConfigError, InspectConfig
from sage_jax.stages.inspection import inspection_folder
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.photographs import drawn
from tests.support.tiny_export import TRAINED_HERE, make_run
from tests.support.tiny_run import read_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stages base and sfe hold random weights."""
    return make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path_factory.mktemp("inspected") / "run")))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(drawn()[:3]):
        (folder / f"{index}.png").write_bytes(image.test_image)
    return folder


def inspected(run: Run, images: Path, output: Path, stage: str = "") -> list[dict[str, object]]:
    options = InspectConfig(images=str(images), output=str(output), stage=stage)
    run_stages(dataclasses.replace(run.config, stages="inspect", inspect=options))
    return read_jsonl(output / "inspection.jsonl")


def test_the_last_trained_stage_answers_and_opens_no_connection(
    run: Run, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: refuse(socket.socket(), given))
    with pytest.raises(OSError, match="there is no network"):
        socket.create_connection(("example.org", 80))
    asked.clear()
    rows = inspected(run, images, tmp_path / "last")
    assert asked == []
    assert [Path(str(row["image"])).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert "threshold 0.5; promise: " in capfd.readouterr().err
    page = (tmp_path / "last" / "report.html").read_text(encoding="utf-8")
    assert "sfe" in page and (tmp_path / "last" / "inspection.csv").is_file()
    with pytest.raises(ConfigError, match=r"stage 'inspect' needs stage 'edpo', .*--config.stages=edpo,inspect"):
        inspected(run, images, tmp_path / "edpo", stage="edpo")


def test_results_lie_in_the_run_unless_a_folder_is_given(run: Run, tmp_path: Path) -> None:
    assert inspection_folder(run) == run.folder.path / "inspect"
    there = Run(dataclasses.replace(run.config, inspect=InspectConfig(output=str(tmp_path))))
    assert inspection_folder(there) == tmp_path


def test_an_empty_folder_is_told_before_the_model_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"none"):
        inspected(run, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out" / "inspection.jsonl").exists()
