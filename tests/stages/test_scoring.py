"""Stage `evaluate` on other data than the run was trained on: results of their own, and test images alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import ConfigError, DataConfig
from sage_jax.config.command_line import read_config
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources.generated import draw
from sage_jax.stages.stages import run_stages
from tests.support.tiny_run import CONFIG, TinyRun

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def evaluated(tiny_run: TinyRun, tmp_path: Path) -> Callable[..., Path]:
    """Evaluates base on a copy of the tiny run's folder."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.run_dir, run, ignore=shutil.ignore_patterns("inspect", "checkpoints"))

    def start(*overrides: str) -> Path:
        folders = [f"--config.run_dir={run}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
        few = ["--config.stages=evaluate", "--config.evaluate.stages=('base',)", "--config.evaluate.num_records=4"]
        run_stages(read_config(["--config", str(CONFIG), *folders, *few, *overrides]))
        return run

    return start


@pytest.fixture
def caps(tmp_path: Path) -> Path:
    """An MVTec-style tree of good drawn parts, three for references and three to test on."""
    data = DataConfig(num_train=6, image_px=32, defect_rate=0.0)
    for index, image in enumerate(draw(data, "train", 0)):
        assert isinstance(image, AnnotatedImage)
        folder = tmp_path / "parts" / "cap" / ("train", "test")[index % 2] / "good"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(image.test_image)
    return tmp_path / "parts"


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def test_results_on_other_data_stand_apart_and_say_what_they_are_of(
    evaluated: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = evaluated()
    own = metrics_of(run)
    predictions = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    evaluated("--config.data.test_seed=5")
    evaluated("--config.data.test_seed=6", "--config.evaluate.name=line-2")
    assert metrics_of(run) == own
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == predictions
    folders = {path.name: path for path in (run / "evaluations").iterdir()}
    named = folders.pop("line-2")
    ((automatic, unnamed),) = folders.items()
    revisions = {own["base"]["one_shot"]["revision"]}
    for folder in (named, unnamed):
        assert metrics_of(folder).keys() == {"base"}
        entry = metrics_of(folder)["base"]["one_shot"]
        assert entry["data"] == "generator"
        revisions.add(entry["revision"])
        assert (folder / "predictions" / "base_one_shot.jsonl").is_file()
    assert len(revisions) == 3
    assert automatic == f"generator-{metrics_of(unnamed)['base']['one_shot']['revision'][:12]}"
    assert "Test data: generator, revision" in capfd.readouterr().out


def test_a_data_set_of_test_images_alone_is_scored_and_cannot_train(
    evaluated: Callable[..., Path], caps: Path, tmp_path: Path
) -> None:
    data = ["--config.data.source=mvtec", f"--config.data.root={caps}", "--config.data.num_train=0"]
    data += ["--config.data.num_test=0", "--config.data.held_out=('cap',)"]
    run = evaluated(*data, "--config.evaluate.name=caps")
    entry = metrics_of(run / "evaluations" / "caps")["base"]["one_shot"]
    assert entry["verdict_accuracy"]["n"] == 15 and entry["data"] == f"mvtec {caps}"
    fresh = ["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'fresh'}", "--config.stages=prepare,base"]
    fresh.append("--config.base.batch_size=8")
    with pytest.raises(ConfigError, match="there is no training record; .*: check data.root, data.held_out"):
        run_stages(read_config([*fresh, f"--config.data.cache_dir={tmp_path / 'cache'}", *data]))


def test_a_name_becomes_a_folder_and_nothing_else() -> None:
    for name in ("../up", "a/b", ".", " x"):
        with pytest.raises(ConfigError, match="it becomes a folder"):
            read_config(["--config", str(CONFIG), f"--config.evaluate.name={name}"])
