"""The summary of one inspection on the terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sage_jax.inspection.console import print_inspection
from sage_jax.inspection.report import InspectionRow, write_rows_jsonl


def said(folder: Path, rows: list[InspectionRow], **cost: float) -> list[str]:
    write_rows_jsonl(folder / "inspection.jsonl", rows)
    out = io.StringIO()
    print_inspection(folder, cost, Console(width=100, file=out, color_system=None))
    return out.getvalue().splitlines()


def test_counts_speed_the_worst_and_the_report_are_told(tmp_path: Path) -> None:
    rows = [InspectionRow(f"parts/{i}.png", "", "good", i / 100, "It is [bold]fine.") for i in range(8)]
    rows.append(InspectionRow("parts/bad.png", "", "defective", 0.97, "A crack at the top."))
    rows.append(InspectionRow("parts/cut.png", "", "unreadable", None, "", error="cut off"))
    lines = said(tmp_path, rows, images=9.0, batch_seconds=1.8)
    assert lines[0] == "10 images: 8 good, 1 defective, 1 unreadable; 0.20 s an image"
    assert lines[2].rstrip().split(maxsplit=2) == ["unreadable", "cut.png", "cut off"]
    assert "It is [bold]fine." in lines[4]
    shown = [line.split()[:3] for line in lines[3:-1]]
    assert shown[0] == ["0.970", "defective", "bad.png"] and [row[0] for row in shown] == sorted(
        (row[0] for row in shown), reverse=True
    )
    assert len(shown) == 5 and lines[-1] == f"report: {tmp_path / 'report.html'}"


def test_one_image_is_one_and_nothing_inspected_has_no_speed(tmp_path: Path) -> None:
    lines = said(tmp_path, [InspectionRow("cut.png", "", "unreadable", None, "", error="cut off")], images=0.0)
    assert lines[0] == "1 image: 1 unreadable"
