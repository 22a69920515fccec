"""The inspection report and its overlays."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import weakref
from pathlib import Path

import pytest
from PIL import Image

from sage_jax.inspection.overlay import picture, small_picture
from sage_jax.inspection.report import (
    InspectionRow,
    Pictures,
    choose_rows,
    count_rows,
    row_from_json,
    row_to_json,
    write_report,
    write_rows_jsonl,
)
from tests.inspection.test_overlay import random_image

ATTACK = "<script>alert('1')</script>\" onload=\"x"


def rows_of_every_sort() -> list[InspectionRow]:
    return [
        InspectionRow(
            image="parts/a.png",
            category="bottle",
            verdict="defective",
            score=0.91,
            reason="A crack at the top.",
            boxes=((3, 4, 9, 12, 0.8),),
            truth="good",
        ),
        InspectionRow(
            image="parts/b.png",
            category="bottle",
            verdict="good",
            score=0.02,
            reason="All is there.",
            truth="good",
            follow_ups=(("Where?", "Nowhere."), (ATTACK, "")),
        ),
        InspectionRow("parts/c.png", "", "unreadable", None, "", error="parts/c.png: cut off after 10 bytes"),
    ]


def pictures_of_every_sort(position: int) -> Pictures:
    test, reference, mapped = (picture(random_image(seed)) for seed in range(3))
    return (Pictures(test, reference, mapped), Pictures(test, None, mapped), Pictures())[position]


class Page(html.parser.HTMLParser):
    """Elements of a page, with their attributes, and its text by element."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.elements[-1][0] if self.elements else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_of(tmp_path: Path, rows: list[InspectionRow], title: str = "Bottles", **facts: str) -> Page:
    write_report(
        tmp_path / "report.html", rows, title=title, facts=facts, pictures=pictures_of_every_sort, threshold=0.5
    )
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_report_shows_every_row_with_its_pictures(tmp_path: Path):
    rows = rows_of_every_sort()
    page = report_of(tmp_path, rows, Model="SAGE, stage edpo")
    assert [row["data-verdict"] for row in page.named("tr")[1:]] == ["defective", "good", "unreadable"]
    assert len(page.named("img")) == 3 + 2
    text = "".join(data for _, data in page.texts)
    for expected in (
        "A crack at the top.",
        "0.910",
        "cut off after 10 bytes",
        "6 × 8 at (3, 4)",
        "1 of 2",
        "SAGE, stage edpo",
    ):
        assert expected in text
    turns = [data for tag, data in page.texts if tag in ("dt", "dd") and data.strip()]
    assert turns[(at := turns.index("Where?")) : at + 4] == ["Where?", "Nowhere.", ATTACK, "–"]
    reasons = [cell["data-value"] for cell in page.named("td") if cell.get("class") == "reason"]
    assert reasons[1] == f"All is there. – Where? Nowhere. – {ATTACK} "  # found by the search, shown when enlarged
    labels = [image["alt"] for image in page.named("img")]
    assert labels[:3] == ["Test image of a.png", "Reference of a.png", "Anomaly map of a.png"]


def test_report_needs_no_other_file(tmp_path: Path):
    page = report_of(tmp_path, rows_of_every_sort())
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http:" not in content and "https:" not in content and "url(" not in content
    policies = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in (policies[0] or "")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_nothing_in_a_row_or_heading_becomes_markup(tmp_path: Path):
    clean = report_of(tmp_path, rows_of_every_sort(), Model="m")
    first, second, third = rows_of_every_sort()
    attacked = [
        dataclasses.replace(first, image=f"parts/{ATTACK}", reason=ATTACK),
        dataclasses.replace(second, category=ATTACK + "&amp;", image=ATTACK.replace("/", "\\")),
        dataclasses.replace(third, error=ATTACK),
    ]
    page = report_of(tmp_path, attacked, title=ATTACK, Model=ATTACK)
    kinds = [tag for tag, _ in page.elements if tag != "small"]
    assert kinds == [tag for tag, _ in clean.elements if tag != "small"]
    assert len(page.named("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert ATTACK in [data for tag, data in page.texts if tag == "h1"]


def test_headers_sort_by_keyboard_and_numbers_as_numbers(tmp_path: Path):
    page = report_of(tmp_path, rows_of_every_sort())
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    head = Page(content[content.index("<thead") : content.index("</thead>")])
    assert len(head.named("button")) == 5
    assert "aria-sort" in content and "prefers-color-scheme: dark" in content
    numeric = [cell["data-value"] for cell in page.named("td") if "data-numeric" in cell]
    assert numeric == ["0.91", "1", "0.02", "0", "", ""]


def test_report_without_images_is_a_page_that_says_so(tmp_path: Path):
    page = report_of(tmp_path, [])
    empty = [attributes for attributes in page.named("p") if attributes.get("id") == "empty"]
    assert empty and "hidden" not in empty[0]


def scored(*scores: float | None) -> list[InspectionRow]:
    return [
        InspectionRow(f"{index}.png", "", "unreadable", None, "", error="cut off")
        if score is None
        else InspectionRow(f"{index}.png", "", "good", score, "")
        for index, score in enumerate(scores)
    ]


def test_a_page_shows_what_needs_a_look_first():
    rows = scored(0.2, None, 0.9, 0.5, 0.9)
    assert choose_rows(rows, 5) == [1, 2, 4, 3, 0]
    rows[3] = dataclasses.replace(rows[3], truth="defective")
    rows[0] = dataclasses.replace(rows[0], verdict="unsure", doubt="it is dark")
    assert choose_rows(rows, 5) == [0, 1, 3, 2, 4]
    rows = scored(0.2, None, 0.9, 0.5, 0.9)
    assert choose_rows(rows, 4) == [1, 2, 4, 3]
    assert choose_rows(rows, 1) == [2]


def test_unreadable_rows_leave_half_a_page_to_the_others():
    assert choose_rows(scored(None, None, None, None, 0.1, 0.2, 0.3), 4) == [0, 1, 6, 5]
    assert choose_rows(scored(None, None, None, None, 0.1), 4) == [0, 1, 2, 4]


def test_a_page_of_some_rows_says_how_many_there_are_and_where(tmp_path: Path):
    rows = rows_of_every_sort()
    totals = count_rows([*rows, *scored(*[0.1] * 97)])
    facts = {"title": "Bottles", "facts": {}, "pictures": pictures_of_every_sort}
    write_report(tmp_path / "part.html", rows, totals=totals, **facts)
    text = "".join(data for _, data in Page((tmp_path / "part.html").read_text(encoding="utf-8")).texts)
    assert "shows 3 of 100 images" in text and "inspection.jsonl has all of them" in text
    assert "98good" in text.replace("\n", "") and "All 3" in text and "1 of 2" in text
    assert "inspection.jsonl has all" not in "".join(data for _, data in report_of(tmp_path, rows).texts)


def test_pictures_are_made_one_row_at_a_time_as_the_page_is_written(tmp_path: Path):
    alive: weakref.WeakSet[Pictures] = weakref.WeakSet()
    most = 0

    def pictures(position: int) -> Pictures:
        nonlocal most
        made = Pictures(picture(random_image(position)))
        alive.add(made)
        most = max(most, len(alive))
        return made

    rows = scored(*[0.5] * 40)
    write_report(tmp_path / "report.html", rows, title="", facts={}, pictures=pictures)
    assert len(Page((tmp_path / "report.html").read_text(encoding="utf-8")).named("img")) == 40
    assert most <= 3


def test_small_pictures_are_jpegs_of_at_most_512_px(tmp_path: Path):
    content = small_picture(random_image(0, 300, 2000))
    with Image.open(io.BytesIO(content)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (512, 77))
    write_report(tmp_path / "r.html", scored(0.5), title="", facts={}, pictures=lambda _: Pictures(content))
    (image,) = Page((tmp_path / "r.html").read_text(encoding="utf-8")).named("img")
    assert (image["src"] or "").startswith("data:image/jpeg;base64,/9j/")


def test_a_row_comes_back_from_its_json():
    for row in rows_of_every_sort():
        row = dataclasses.replace(row, overlay_path="overlays/a.png")
        assert row_from_json(json.loads(json.dumps(row_to_json(row)))) == row


def test_rows_file_has_every_field_of_every_row(tmp_path: Path):
    rows = rows_of_every_sort()
    rows[0] = dataclasses.replace(rows[0], overlay_path="overlays/a.png")
    write_rows_jsonl(tmp_path / "rows.jsonl", rows)
    read = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["image"] for row in read] == ["parts/a.png", "parts/b.png", "parts/c.png"]
    assert read[0]["boxes"] == [{"left": 3, "top": 4, "right": 9, "bottom": 12, "score": 0.8}]
    assert read[0]["overlay"] == "overlays/a.png" and read[1]["overlay"] is None
    assert read[2]["score"] is None and "cut off" in read[2]["error"]


def test_rows_that_say_too_little_are_errors():
    with pytest.raises(ValueError, match=r"a\.png: score None of a good image"):
        InspectionRow("a.png", "", "good", None, "")
    with pytest.raises(ValueError, match="score nan"):
        InspectionRow("a.png", "", "good", float("nan"), "")
    with pytest.raises(ValueError, match="needs its error"):
        InspectionRow("a.png", "", "unreadable", None, "")
