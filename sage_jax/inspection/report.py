"""The inspection report: one HTML file with pictures, verdicts, scores and reasons; and the same rows as JSON lines."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import heapq
import importlib.resources
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jinja2

from sage_jax.inspection.overlay import Region
from sage_jax.process.files import replace_file

Verdict = Literal["defective", "good", "unsure", "unreadable"]
VERDICTS: Final[tuple[Verdict, ...]] = ("defective", "good", "unsure", "unreadable")
_BOX: Final = ("left", "top", "right", "bottom", "score")


@dataclasses.dataclass(frozen=True)
class InspectionRow:
    """What inspection found on one image.

    Attributes:
      image: Path of the image as the user gave it.
      category: What the part is; "" where unknown.
      verdict: `unsure` for an image unlike those calibrated on, whatever its score; `unreadable` for one that could not
        be inspected.
      score: Anomaly score, 0 to 1; None where unreadable.
      reason: The model's answer after the verdict.
      boxes: The map's peaks (left, top, right, bottom, score), px of the image, right and bottom exclusive.
      error: Why the image could not be inspected; "" where it could.
      overlay_path: Where the overlay was written; "" where it was not.
      truth: The known label, or None.
      follow_ups: Further questions about the image, each with the model's answer.
      reference: Path of the good reference that it was compared with, the first of several; "" without one.
      num_references: References that it was compared with.
      map_peak: Highest value of the anomaly map at an image token; None without a reference.
      difference_peak: Largest absolute difference of pixels to the reference, 0 to 1; None where none was taken.
      map_median: Median of the anomaly map; None without a reference.
      doubt: Why the verdict is unsure; "" where it is not.
      facts: Sentences about the object and its typical anomalies that the model was given, or wrote first.
    """

    image: str
    category: str
    verdict: Verdict
    score: float | None
    reason: str
    boxes: tuple[Region, ...] = ()
    error: str = ""
    overlay_path: str = ""
    truth: Literal["defective", "good"] | None = None
    follow_ups: tuple[tuple[str, str], ...] = ()
    reference: str = ""
    num_references: int = 0
    map_peak: float | None = None
    difference_peak: float | None = None
    map_median: float | None = None
    doubt: str = ""
    facts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.image}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")
        if self.verdict != "unreadable" and (self.score is None or not 0.0 <= self.score <= 1.0):
            raise ValueError(f"{self.image}: score {self.score} of a {self.verdict} image: give a number from 0 to 1")
        if self.verdict == "unreadable" and not self.error:
            raise ValueError(f"{self.image}: an unreadable image needs its error")
        if (self.verdict == "unsure") != bool(self.doubt):
            raise ValueError(f"{self.image}: verdict {self.verdict!r} with doubt {self.doubt!r}: both or neither")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A row's pictures for the page, PNG or JPEG; None where there is none."""

    test: bytes | None = None
    reference: bytes | None = None
    overlay: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Totals:
    """Counts over all rows of an inspection, shown in the page or not.

    Attributes:
      verdicts: Images by verdict.
      one_shot: Images with a reference.
      labelled: Images with a verdict, good or defective, whose label is known.
      agreeing: Of those, images whose verdict is the label.
    """

    verdicts: Mapping[str, int]
    one_shot: int
    labelled: int
    agreeing: int

    @property
    def images(self) -> int:
        return sum(self.verdicts.values())


def count_rows(rows: Iterable[InspectionRow]) -> Totals:
    """Counts over rows that need not be in memory together."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.verdict] += 1
        counts["one_shot"] += bool(row.overlay_path)
        if row.truth is not None and row.verdict in ("good", "defective"):
            counts["labelled"] += 1
            counts["agreeing"] += row.verdict == row.truth
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS}
    return Totals(verdicts, counts["one_shot"], counts["labelled"], counts["agreeing"])


def choose_rows(rows: Iterable[InspectionRow], most: int) -> list[int]:
    """Positions of the rows to show on a page, at most `most`, those that need a look first.

    They are the unreadable and the unsure ones, then those whose verdict is not the known label, then the others from
    the highest score down; where the first would fill the page, they take half of it.
    """
    without, others = [], []
    for index, row in enumerate(rows):
        if row.score is None or row.verdict == "unsure":
            without.append(index)
        else:
            others.append((row.truth in (None, row.verdict), -row.score, index))
    shown = without[: max(most // 2, most - len(others))]
    return shown + [index for *_, index in heapq.nsmallest(most - len(shown), others)]


def write_report(
    path: Path,
    rows: Sequence[InspectionRow],
    *,
    title: str,
    facts: Mapping[str, str],
    pictures: Callable[[int], Pictures],
    totals: Totals | None = None,
    threshold: float | None = None,
    scores: Mapping[str, Any] | None = None,
    written: datetime.datetime | None = None,
) -> None:
    """Writes the report: one HTML file that needs no other file and no network.

    Args:
      path: The HTML file, replaced as a whole.
      rows: In the order to show first.
      title: Heading of the page.
      facts: What was run (model, mode, references), by label.
      pictures: Those of the row at a position; asked for one row after the other, and not kept.
      totals: Of all rows, where `rows` are only some of them; the page then says so.
      threshold: Score from which the verdict is `defective`; marked on the score bars.
      scores: What the histogram and the slider show (`page.score_panel`); None leaves them out.
      written: Date of the report; now by default.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = (
        importlib.resources.files("sage_jax").joinpath("inspection", "report.html.jinja").read_text(encoding="utf-8")
    )
    shown = dict(facts)
    if threshold is not None:
        shown["Threshold"] = f"{threshold:g}"
    shown["Written"] = f"{written or datetime.datetime.now():%Y-%m-%d %H:%M}"
    page = environment.from_string(source).generate(
        title=title,
        facts=shown,
        rows=rows,
        counts=Counter(row.verdict for row in rows),
        totals=totals or count_rows(rows),
        verdicts=VERDICTS,
        threshold=threshold,
        scores=scores,
        pictures=pictures,
        data_uri=_data_uri,
        digest=lambda script: base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        file_name=lambda image: Path(image).name or image,
        folder=lambda image: "" if str(Path(image).parent) == "." else f"{Path(image).parent}/",
    )
    replace_file(path, page)


def write_rows_jsonl(path: Path, rows: Iterable[InspectionRow]) -> None:
    """Writes the rows as JSON lines; `boxes` in px of the image, right and bottom exclusive."""
    lines = (json.dumps(row_to_json(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    replace_file(path, lines)


def row_to_json(row: InspectionRow) -> dict[str, Any]:
    """A row as it stands in the JSONL."""
    return {
        "image": row.image,
        "category": row.category,
        "verdict": row.verdict,
        "score": row.score,
        "reason": row.reason,
        "follow_ups": [{"question": question, "answer": answer} for question, answer in row.follow_ups],
        "boxes": [dict(zip(_BOX, region, strict=True)) for region in row.boxes],
        "overlay": row.overlay_path or None,
        "truth": row.truth,
        "error": row.error or None,
        "reference": row.reference or None,
        "num_references": row.num_references,
        "map_peak": row.map_peak,
        "difference_peak": row.difference_peak,
        "map_median": row.map_median,
        "doubt": row.doubt or None,
        "facts": list(row.facts),
    }


def row_from_json(content: Mapping[str, Any]) -> InspectionRow:
    """The row of a line of the JSONL; the inverse of `row_to_json`."""
    return InspectionRow(
        image=content["image"],
        category=content["category"],
        verdict=content["verdict"],
        score=content["score"],
        reason=content["reason"],
        boxes=tuple((box["left"], box["top"], box["right"], box["bottom"], box["score"]) for box in content["boxes"]),
        error=content["error"] or "",
        overlay_path=content["overlay"] or "",
        truth=content["truth"],
        follow_ups=tuple((turn["question"], turn["answer"]) for turn in content["follow_ups"]),
        reference=content.get("reference") or "",  # rows of an inspection begun before there was one
        num_references=content.get("num_references") or int(bool(content.get("reference"))),
        map_peak=content.get("map_peak"),
        difference_peak=content.get("difference_peak"),
        map_median=content.get("map_median"),
        doubt=content.get("doubt") or "",
        facts=tuple(content.get("facts") or ()),
    )


def _data_uri(encoded: bytes) -> str:
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(encoded).decode("ascii")
