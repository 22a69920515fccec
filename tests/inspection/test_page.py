"""The report's rows with pictures made from the files again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import InspectConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.records import Reference
from sage_jax.inspection import page as page_module
from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.images import InputImage, make_input
from sage_jax.inspection.overlay import picture
from sage_jax.inspection.page import score_panel, write_page
from sage_jax.inspection.report import InspectionRow, Pictures, count_rows
from sage_jax.inspection.scores import count_scores
from sage_jax.journal.run_log import RunLog
from tests.inspection.test_overlay import random_image

VOCABULARY = load_vocabulary("")


class Given:
    """Images in memory; counts how often each is read."""

    def __init__(self, number: int, reference: bytes) -> None:
        self.read_again: list[int] = []
        self._inputs = [
            make_input(f"{i}.png", picture(random_image(i)), [Reference(reference, "good.png")], "", VOCABULARY)
            for i in range(number)
        ]

    def __len__(self) -> int:
        return len(self._inputs)

    def key(self, index: int) -> str:
        return f"{index:016x}"

    def stamp(self, index: int) -> str:
        return ""

    def read(self, index: int) -> InputImage:
        self.read_again.append(index)
        return self._inputs[index]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(number: int, most: int, threshold: float = 0.5) -> tuple[str, Given]:
        images = Given(number, picture(random_image(99)))
        rows = []
        for index in range(number):
            overlay = tmp_path / f"{index}_overlay.png"
            overlay.write_bytes(picture(random_image(200 + index)))
            score = index / number
            verdict: Any = "defective" if score >= threshold else "good"
            rows.append(InspectionRow(f"{index}.png", "", verdict, score, "It is so.", overlay_path=str(overlay)))
        journal = RowJournal(tmp_path / "journal.jsonl", "test")
        offsets = np.asarray(journal.append([(images.key(i), "", row) for i, row in enumerate(rows)]))
        with RunLog(tmp_path / "run", "inspect") as log:
            write_page(
                tmp_path / "report.html",
                images,
                journal,
                offsets,
                count_rows(rows),
                about={"Model": "sfe"},
                config=InspectConfig(report_images=most, threshold=threshold),
                log=log,
            )
        return (tmp_path / "report.html").read_text(encoding="utf-8"), images

    return write


def test_the_rows_of_most_risk_are_shown_and_only_their_images_read(written: Any) -> None:
    page, images = written(9, 4)
    assert sorted(images.read_again) == [5, 6, 7, 8]
    assert page.count("data:image/") >= 3 * 4 and "Images" in page and ">9<" in page.replace(" ", "")
    assert page.index("8.png") < page.index("7.png") < page.index("5.png")


def test_many_rows_get_small_pictures(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[bytes] = set()

    def small(pixels: np.ndarray) -> bytes:
        made.add(pixels.tobytes())
        return picture(pixels)

    monkeypatch.setattr(page_module, "small_picture", small)
    written(4, 9)
    assert not made
    monkeypatch.setattr(page_module, "_LARGE_PICTURES", 3)
    written(4, 9)
    assert len(made) == 4 * 2 + 1  # image and overlay of each row, and the one reference that they share


def test_a_file_that_is_gone_costs_its_picture_alone(written: Any, tmp_path: Path) -> None:
    page, _ = written(3, 9)
    image = make_input("0.png", picture(random_image(0)), [Reference(b"x", "good.png")], "", VOCABULARY)
    row = InspectionRow("0.png", "", "good", 0.1, "It is so.", overlay_path=str(tmp_path / "gone.png"))
    found = page_module._pictures(image, row, picture, bytes)
    assert found.test and found.reference is None and found.overlay is None and page.count("data:image/") >= 9
    unreadable = dataclasses.replace(image, record=None)
    assert page_module._pictures(unreadable, row, picture, bytes) == Pictures()


def test_scores_of_no_image_have_no_panel() -> None:
    assert score_panel(count_scores([], 0.5)) == {}
    panel = score_panel(count_scores([InspectionRow("a.png", "", "good", 0.2, "")], 0.3))
    assert panel["slider"]["thresholds"][panel["chosen"]] == 0.3 and len(panel["bars"]) == 1
