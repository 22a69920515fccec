"""Images unlike those calibrated on: called unsure, in Python, rows and report, whatever their score."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sage_jax
from sage_jax.config import DataConfig, InspectConfig
from sage_jax.data.images import encode_png
from sage_jax.data.sources.generated import draw
from sage_jax.errors import UserError
from sage_jax.stages.familiarity import FILE
from sage_jax.stages.open_model import config_of
from tests.support.tiny_run import TinyRun, read_jsonl

pytestmark = pytest.mark.usefixtures("one_device")

GOOD, DEFECTIVE = 30, 20


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts to calibrate on, others and defective ones to inspect, with references; noise, and a black image."""
    folder = tmp_path_factory.mktemp("parts")
    drawn = list(draw(DataConfig(num_train=150, num_test=1, image_px=40), "train", 9))
    good = [image for image in drawn if not image.defects]
    defective = list(enumerate([image for image in drawn if image.defects][:DEFECTIVE]))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    files = {f"good/{index:02}.png": image.test_image for index, image in enumerate(good[:GOOD])}
    files |= {f"new/{index:02}.png": image.test_image for index, image in enumerate(good[GOOD : GOOD + 20])}
    files |= {f"references/{index:02}.png": image.reference_image or b"" for index, image in enumerate(good[:GOOD])}
    of_new = enumerate(good[GOOD : GOOD + 20])
    files |= {f"references_new/{index:02}.png": image.reference_image or b"" for index, image in of_new}
    files |= {f"new/defective_{index:02}.png": image.test_image for index, image in defective}
    files |= {f"references_new/defective_{index:02}.png": image.reference_image or b"" for index, image in defective}
    files |= {"new/noise.png": encode_png(noise), "new/black.png": encode_png(np.zeros((40, 40, 3), np.uint8))}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def run_folder(tiny_run: TinyRun, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(tiny_run.run_dir, tmp_path_factory.mktemp("familiar") / "run"))
    calibrated(folder, parts)
    return folder


def calibrated(folder: Path, parts: Path, *, unsure_rate: float = 0.01) -> None:
    shutil.rmtree(folder / "calibration", ignore_errors=True)
    references = parts / "references"
    sage_jax.calibrate(folder, parts / "good", references=references, false_alarm_rate=0.1, unsure_rate=unsure_rate)


def inspect_new(folder: Path, parts: Path) -> Path:
    options = InspectConfig(images=str(parts / "new"), references=str(parts / "references_new"))
    sage_jax.train(dataclasses.replace(config_of(folder), inspect=options), stages="inspect")
    return folder / "inspect"


def test_far_images_are_unsure_everywhere_and_near_ones_are_not(run_folder: Path, parts: Path) -> None:
    output = inspect_new(run_folder, parts)
    rows = {Path(row["image"]).stem: row for row in read_jsonl(output / "inspection.jsonl")}
    for name in ("noise", "black"):
        assert rows[name]["verdict"] == "unsure" and rows[name]["doubt"] and 0.0 <= rows[name]["score"] <= 1.0
    like = [row for name, row in rows.items() if name not in ("noise", "black")]
    defective = [row for name, row in rows.items() if name.startswith("defective")]
    good = [row for row in like if row not in defective]
    assert len(good) == 20 and sum(row["verdict"] == "unsure" for row in good) <= 4
    assert len(defective) == DEFECTIVE and sum(row["verdict"] == "unsure" for row in defective) <= 6
    assert all((row["verdict"] == "unsure") == (row["doubt"] is not None) for row in like)
    inspector = sage_jax.load(run_folder)
    for name in ("noise", "00", "01"):
        reference = parts / "references_new" / ("00.png" if name == "noise" else f"{name}.png")
        found = inspector.inspect(parts / "new" / f"{name}.png", references=reference)
        assert (found.verdict, found.doubt) == (rows[name]["verdict"], rows[name]["doubt"] or "")
        assert found.score == pytest.approx(rows[name]["score"], abs=1e-5)
        assert ("unsure: " in str(found)) == bool(found.doubt)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert f"Unsure: {rows['noise']['doubt']}." in page and 'data-verdict="unsure"' in page
    log = (run_folder / "log.txt").read_text(encoding="utf-8")
    assert "images unlike these are called unsure: 3.23% or fewer of further good images" in log
    assert "(1.00% were asked for; 30 images promise no less)" in log


def test_a_further_image_of_the_same_size_costs_no_compilation(
    run_folder: Path, parts: Path, compilations: list[str]
) -> None:
    inspector, good = sage_jax.load(run_folder), parts / "good" / "00.png"
    inspector.inspect(parts / "new" / "00.png", references=good)
    compilations.clear()
    inspector.inspect(parts / "new" / "noise.png", references=good)
    assert compilations == []


def test_without_a_reference_nothing_is_known_of_what_is_far(run_folder: Path, parts: Path) -> None:
    found = sage_jax.load(run_folder).inspect(parts / "new" / "noise.png")
    assert found.verdict != "unsure" and not found.doubt


def of_an_earlier_version(path: Path) -> bytes:
    """The file as it was written before it said which format it has."""
    with np.load(path) as stored:
        rest = json.loads(str(stored["rest"]))
        buffer = io.BytesIO()
        np.savez(buffer, bank=stored["bank"], rest=np.asarray(json.dumps({**rest, "format": None})))
    return buffer.getvalue()


def test_a_rate_of_zero_forgets_and_a_broken_file_is_named(run_folder: Path, parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    whole = (folder / FILE).read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", b"", of_an_earlier_version(folder / FILE)):
        (folder / FILE).write_bytes(broken)
        with pytest.raises(UserError, match=rf"{FILE}: .*: calibrate again"):
            sage_jax.load(folder)
    calibrated(folder, parts, unsure_rate=0.0)
    assert not (folder / FILE).exists()
    assert sage_jax.load(folder).inspect(parts / "new" / "noise.png", parts / "good" / "00.png").verdict != "unsure"
