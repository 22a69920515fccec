"""The rows as CSV: each value in its column, whatever it holds, and nothing that a program would compute."""

from __future__ import annotations

import csv
from pathlib import Path

from sage_jax.inspection.report import InspectionRow
from sage_jax.inspection.spreadsheet import COLUMNS, write_rows_csv


def test_rows_come_back_by_column(tmp_path: Path) -> None:
    rows = [
        InspectionRow(
            "teile/größe, 1.png",
            "nut",
            "defective",
            0.25,
            'Yes. There is a "crack",\nat the top.',
            boxes=((1, 2, 3, 4, 0.5), (5, 6, 7, 8, 1.25)),
            truth="good",
            follow_ups=(("Where?", "At the top."), ("Why?", "=1+1")),
            reference="good.png",
        ),
        InspectionRow("far.png", "", "unsure", 1.0, "Yes.", doubt="it is darker than those"),
        InspectionRow("b.png", "", "unreadable", None, "", error="b.png: cut off"),
        InspectionRow("=cmd|' /C calc'!A0.png", "+x", "good", 0.0, "@SUM(A1)", follow_ups=(("-1?", "No."),)),
    ]
    write_rows_csv(tmp_path / "rows.csv", iter(rows))
    content = (tmp_path / "rows.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    with (tmp_path / "rows.csv").open(encoding="utf-8-sig", newline="") as file:
        head, first, far, broken, attack = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert first[:5] == ["teile/größe, 1.png", "nut", "defective", "0.250000", 'Yes. There is a "crack",\nat the top.']
    assert first[7:] == ["good", "good.png", "1 2 3 4 0.5; 5 6 7 8 1.25", "Where? At the top. Why? =1+1"]
    assert (far[2], far[5]) == ("unsure", "it is darker than those")
    assert (broken[2], broken[3], broken[6]) == ("unreadable", "", "b.png: cut off")
    assert [attack[index] for index in (0, 1, 4, 10)] == ["'=cmd|' /C calc'!A0.png", "'+x", "'@SUM(A1)", "'-1? No."]
