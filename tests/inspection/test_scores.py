"""Scores of a report: counts at every threshold against counting, and a histogram that holds every image once."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from sage_jax.inspection.page import score_panel
from sage_jax.inspection.report import InspectionRow, Pictures, write_report
from sage_jax.inspection.scores import LABELS, ScoreCounts, count_scores, ticks

THRESHOLD = 0.0123456


def rows_of(number: int = 300) -> list[InspectionRow]:
    """Scores at both ends, ties with the threshold, and images that have no verdict."""
    rng = np.random.default_rng(0)
    scores = 1.0 / (1.0 + np.exp(-rng.normal(0, 8, number)))
    scores[:4] = (0.0, 1.0, THRESHOLD, THRESHOLD)
    truths: list[Literal["good", "defective"] | None] = [None, "good", "defective"] * (number // 3)
    rows = [
        InspectionRow(f"{index}.png", "", "defective" if score >= THRESHOLD else "good", float(score), "", truth=truth)
        for index, (score, truth) in enumerate(zip(scores, truths, strict=True))
    ]
    rows.append(InspectionRow("far.png", "", "unsure", 0.7, "", truth="good", doubt="it is dark"))
    return [*rows, InspectionRow("broken.png", "", "unreadable", None, "", error="cut off")]


def counts() -> tuple[list[InspectionRow], ScoreCounts]:
    rows = rows_of()
    return rows, count_scores(iter(rows), THRESHOLD)


def test_every_threshold_counts_the_images_at_or_above_it() -> None:
    rows, found = counts()
    assert found.thresholds[found.chosen] == THRESHOLD and list(found.thresholds) == sorted(set(found.thresholds))
    for at in (0, 1, 100, found.chosen, found.chosen + 1, len(found.thresholds) - 1):
        for label in LABELS:
            expected = sum(
                row.score is not None and row.score >= found.thresholds[at] and (row.truth or "unknown") == label
                for row in rows
                if row.verdict in ("good", "defective")
            )
            assert found.at_or_above[label][at] == expected
    assert sum(above[0] for above in found.at_or_above.values()) == 300


def test_the_histogram_holds_every_image_once_and_its_highest_bar_fills_it() -> None:
    _, found = counts()
    bars = found.bars()
    columns: dict[float, float] = {}
    for bar in bars:
        assert bar.bottom == pytest.approx(columns.get(bar.left, 0.0))
        columns[bar.left] = bar.bottom + bar.height
    assert max(columns.values()) == pytest.approx(1.0)
    assert max(left + bars[0].width for left in columns) <= 1.0 + 1e-9
    least = min(bar.height for bar in bars)
    assert sum(round(bar.height / least) for bar in bars) == pytest.approx(300, abs=3)
    places = [place for _, place in ticks()]
    assert places == sorted(places) and places[3] == 0.5


def page_of(rows: list[InspectionRow], path: Path) -> str:
    scores = score_panel(count_scores(rows, THRESHOLD))
    facts = {"title": "t", "facts": {}, "pictures": lambda _: Pictures(), "threshold": THRESHOLD}
    write_report(path, rows, scores=scores, **facts)
    return path.read_text(encoding="utf-8")


def test_the_page_shows_them_and_nothing_of_no_image(tmp_path: Path) -> None:
    page = page_of(rows_of(), tmp_path / "report.html")
    assert page.count("<rect ") > 20 and 'id="threshold"' in page and "known defective" in page
    unreadable = [InspectionRow("broken.png", "", "unreadable", None, "", error="cut off")]
    assert "<svg" not in page_of(unreadable, tmp_path / "none.html")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_counts_what_the_threshold_gives(tmp_path: Path) -> None:
    rows, found = counts()
    page_of(rows, tmp_path / "report.html")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"file://{tmp_path}/report.html",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (text,) = re.findall(r'<output id="would"[^>]*>([^<]*)<', shown)
    above = {label: found.at_or_above[label][found.chosen] for label in LABELS}
    escapes = 100 - above["defective"]
    assert html.unescape(text) == (
        f"Threshold 0.01235: {sum(above.values())} of 300 ({sum(above.values()) / 3:.1f} %) called defective; "
        f"false alarms {above['good']} of 100 ({above['good']:.1f} %) known good; "
        f"escapes {escapes} of 100 ({escapes:.1f} %) known defective"
    )
