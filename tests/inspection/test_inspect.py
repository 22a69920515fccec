"""Inspection of a user's images: every image gets a row, whatever is wrong with it, and the report stands alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sage_jax.inspection.inspect import _short_stem
from tests.support.photographs import SCRIPT, write_photographs
from tests.support.tiny_run import TinyRun, read_jsonl, run_main

FIELDS = {
    "image",
    "category",
    "verdict",
    "score",
    "reason",
    "follow_ups",
    "boxes",
    "overlay",
    "truth",
    "error",
    "reference",
    "num_references",
    "map_peak",
    "difference_peak",
    "map_median",
    "doubt",
    "facts",
}


QUESTIONS = ("Where is it?", "How bad is it?")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def inspected(tiny_run: TinyRun, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results for the folder, one-shot, from a run folder alone: its data set is not there."""
    folder = tmp_path_factory.mktemp("inspected")
    shutil.copytree(tiny_run.run_dir, folder / "run")
    run_main(
        folder,
        "--config.stages=inspect",
        f"--config.inspect.images={photographs / 'images'}",
        f"--config.inspect.references={photographs / 'references'}",
        "--config.inspect.map_threshold=0.0",
        "--config.inspect.ask=in_turn",
        f"--config.inspect.questions={QUESTIONS}",
    )
    return folder


def test_inspection_of_ones_own_images_needs_no_data_set(inspected: Path) -> None:
    assert not (inspected / "cache").exists()


def test_every_image_of_a_folder_has_one_row_with_all_fields(inspected: Path, photographs: Path) -> None:
    rows = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    assert {Path(row["image"]).name for row in rows} == {"a.png", "b.PNG", "broken.jpg", SCRIPT}
    for row in rows:
        assert row.keys() == FIELDS
        assert Path(row["image"]).is_relative_to(photographs)
        if row["verdict"] == "unreadable":
            continue
        assert row["verdict"] == ("defective" if row["score"] >= 0.5 else "good")
        assert row["error"] is None and row["truth"] is None
        for box in row["boxes"]:
            assert 0 <= box["left"] < box["right"] <= 40 and 0 <= box["top"] < box["bottom"] <= 40
    assert {Path(row["image"]).name: row["category"] for row in rows}["a.png"] == "gear"


def test_further_questions_are_answered_for_every_readable_image(inspected: Path) -> None:
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    for row in read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl"):
        asked = tuple(turn["question"] for turn in row["follow_ups"])
        assert asked == (() if row["verdict"] == "unreadable" else QUESTIONS)
        assert all(isinstance(turn["answer"], str) for turn in row["follow_ups"])
    assert page.count(f"<dt>{QUESTIONS[1]}</dt>") == 3


def test_facts_of_the_model_itself_and_narrow_weights_change_scores_alone(
    inspected: Path, photographs: Path, tmp_path: Path
) -> None:
    run_main(
        inspected,
        "--config.stages=inspect",
        f"--config.inspect.images={photographs / 'images'}",
        f"--config.inspect.references={photographs / 'references'}",
        "--config.inspect.facts=model",
        "--config.inspect.fact_tokens=8",
        "--config.evaluate.weights_dtype=int8",
        f"--config.inspect.output={tmp_path}",
    )
    before = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    for row, wide in zip(read_jsonl(tmp_path / "inspection.jsonl"), before, strict=True):
        assert row["image"] == wide["image"] and row["reference"] == wide["reference"]
        assert (row["score"] is None) == (wide["score"] is None)
        if row["score"] is not None:
            assert 0.0 < abs(row["score"] - wide["score"]) < 0.2


def test_every_row_names_the_reference_it_was_compared_with(inspected: Path, photographs: Path) -> None:
    rows = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    first = str(photographs / "references" / "a.png")
    assert {Path(row["image"]).name: row["reference"] for row in rows} == {
        "a.png": first,
        "b.PNG": first,  # none of its own name: the folder's first
        SCRIPT: first,
        "broken.jpg": None,
    }
    log = (inspected / "run" / "log.txt").read_text(encoding="utf-8")
    assert "3 of 4 images have no reference of their own name" in log and "the folder's first: a.png" in log
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    assert page.count("reference: a.png") == 3


def test_a_long_name_of_wide_characters_is_cut_to_a_file_name() -> None:
    stem = _short_stem("x/" + "検" * 80 + ".png")
    assert len(stem.encode()) <= 80 and stem == "検" * 26
    assert _short_stem("y/" + "a" * 90 + ".b.png") == "a" * 80


def test_a_broken_image_gets_a_row_that_says_so(inspected: Path) -> None:
    (row,) = (r for r in read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl") if r["verdict"] == "unreadable")
    assert row["image"].endswith("broken.jpg")
    assert row["score"] is None and row["overlay"] is None
    assert "broken.jpg" in row["error"]
    assert "broken.jpg" in (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")


def test_overlays_are_pictures_that_open(inspected: Path) -> None:
    rows = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    overlays = [row["overlay"] for row in rows if row["verdict"] != "unreadable"]
    assert len(overlays) == 3 and None not in overlays
    for path in overlays:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) >= 256


def test_the_report_is_one_file_that_needs_no_other(inspected: Path) -> None:
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://", page) == []
    assert re.findall(r"""href\s*=\s*["']([^"']*)""", page) == ["inspection.csv"]  # offered, not needed
    targets = re.findall(r"""src\s*=\s*["']([^"']*)""", page)
    assert len(targets) == 3 * 3  # test, reference and map of three readable images
    assert all(target.startswith("data:image/png;base64,") for target in targets)


def test_a_file_name_is_text_in_the_report(inspected: Path) -> None:
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;.png" in page


def test_the_sample_of_test_records_shows_good_and_defective(tiny_run: TinyRun) -> None:
    rows = read_jsonl(tiny_run.run_dir / "inspect" / "inspection.jsonl")
    assert sorted(row["truth"] for row in rows) == ["defective", "defective", "good", "good"]
