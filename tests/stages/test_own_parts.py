"""A folder of good parts alone goes through training, evaluation, inspection and calibration."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import DataConfig
from sage_jax.config.command_line import load_config, read_config
from sage_jax.data import store
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources.generated import draw
from sage_jax.data.trees.tiles import image_size
from sage_jax.stages.run import Run
from tests.support.tiny_run import CONFIG, TinyRun, read_jsonl, run_main


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts, 48 px, in sub-folders, one of which is no image."""
    folder = tmp_path_factory.mktemp("own") / "my parts"
    for index, image in enumerate(draw(DataConfig(num_train=24, image_px=48, defect_rate=0.0), "train", 0)):
        assert isinstance(image, AnnotatedImage)
        place = folder / ("OK" if index % 2 else "OK/night") / f"IMG {index}.PNG"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image.test_image)
    (folder / "OK" / "notes.gif").write_bytes(b"GIF")
    return folder


def test_good_parts_alone_go_through_all_stages(tiny_run: TinyRun, photographs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    given = {
        "run_dir": run_dir,
        "stages": "prepare,base,sfe,evaluate,inspect,calibrate",
        "data.source": "folder",
        "data.root": photographs,
        "data.num_train": 0,
        "data.num_test": 0,
        "data.shrink_px": 32,
        "data.drawn_defects": 2,
        "data.register": "rigid",
        "evaluate.stages": "('sfe',)",
        "calibrate.good": photographs / "OK",
        "calibrate.references": photographs / "OK",
    }
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    run_main(tiny_run.folder, *overrides)  # what the tiny run compiled serves here too
    config = read_config(["--config", str(CONFIG), f"--config.data.cache_dir={tiny_run.folder / 'cache'}", *overrides])
    log = (run_dir / "log.txt").read_text(encoding="utf-8")
    assert "0 defective images are kept for testing" in log and "1 files *.gif are not read" in log
    assert re.search(r"prepare: \d+ (of \d+ )?good images (lie|match their references nowhere)", log)
    with Image.open(run_dir / "drawn_defects.png") as sheet:
        assert sheet.size[0] == 6 * 192 and np.asarray(sheet).std() > 20.0
    records = store.open_split(Run(config).prepared, "train")
    defective = [bool(records[index].anomalous) for index in range(len(records))]
    assert len(defective) >= 40 and sum(defective) == len(defective) / 2
    assert all(image_size(records[index].test_image, name="") == (32, 32) for index in range(4))
    metrics = json.loads((run_dir / "summary.json").read_text())["metrics"]["sfe"]["one_shot"]
    assert metrics["verdict_accuracy"]["n"] > 0 and metrics["auroc"]["value"] is None
    assert metrics["named_though_good"]["value"] is not None
    rows = read_jsonl(run_dir / "inspect" / "inspection.jsonl")
    assert rows and {row["truth"] for row in rows} == {"good"}
    assert json.loads((run_dir / "calibration.json").read_text())["num_good"] == 24


def test_the_shipped_config_reads_good_parts_and_draws(photographs: Path) -> None:
    config = load_config("own_parts")
    assert config.data.source == "folder" and config.data.drawn_defects > 0 and config.data.register == "rigid"
    assert config.data.shrink_px == config.model.vit.tile_px
