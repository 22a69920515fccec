"""The inspection report: one HTML file with pictures, verdicts, scores and reasons; and the same rows as JSON lines."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import heapq
import importlib.resources
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sage_jax.axes import Float, UInt8
from sage_jax.process.files import replace_file

Verdict = Literal["defective", "good", "unreadable"]
Region = tuple[int, int, int, int, float]

VERDICTS: Final[tuple[Verdict, ...]] = ("defective", "good", "unreadable")
_MIN_PX = 256
_MAX_PX = 1024
_SMALL_PX = 512
_LEGEND_PX = 22
_PNG_LEVEL: Final = 3
"""The strongest takes seven times as long for a tenth less of file."""
_BOX: Final = ("left", "top", "right", "bottom", "score")


@dataclasses.dataclass(frozen=True)
class InspectionRow:
    """What inspection found on one image.

    Attributes:
      image: Path of the image as the user gave it.
      category: What the part is; "" where unknown.
      verdict: `unreadable` for an image that could not be inspected.
      score: Anomaly score, 0 to 1; None where unreadable.
      reason: The model's answer after the verdict.
      boxes: The map's peaks (left, top, right, bottom, score), px of the image, right and bottom exclusive.
      error: Why the image could not be inspected; "" where it could.
      overlay_path: Where the overlay was written; "" where it was not.
      truth: The known label, or None.
      follow_ups: Further questions about the image, each with the model's answer.
      reference: Path of the good reference that it was compared with; "" without one.
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

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.image}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")
        if self.verdict != "unreadable" and (self.score is None or not 0.0 <= self.score <= 1.0):
            raise ValueError(f"{self.image}: score {self.score} of a {self.verdict} image: give a number from 0 to 1")
        if self.verdict == "unreadable" and not self.error:
            raise ValueError(f"{self.image}: an unreadable image needs its error")


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
      labelled: Readable images whose label is known.
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
        if row.truth is not None and row.verdict != "unreadable":
            counts["labelled"] += 1
            counts["agreeing"] += row.verdict == row.truth
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS}
    return Totals(verdicts, counts["one_shot"], counts["labelled"], counts["agreeing"])


def choose_rows(rows: Iterable[InspectionRow], most: int) -> list[int]:
    """Positions of the rows to show on a page: all in their order, or the `most` that need a look.

    Those are the unreadable ones, then the others from the highest score down; where unreadable ones would fill the
    page, they take half of it.
    """
    scores = [row.score for row in rows]
    if len(scores) <= most:
        return list(range(len(scores)))
    unreadable = [index for index, score in enumerate(scores) if score is None]
    readable = [(-score, index) for index, score in enumerate(scores) if score is not None]
    shown = unreadable[: max(most // 2, most - len(readable))]
    return shown + [index for _, index in heapq.nsmallest(most - len(shown), readable)]


def picture(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An image as a PNG for the report: the shorter side at least 256 px (nearest), the longer at most 1024 px."""
    return _png(_resized(Image.fromarray(image)))


def small_picture(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An image as a JPEG for a page of hundreds: the longer side at most 512 px."""
    small = Image.fromarray(image)
    small.thumbnail((_SMALL_PX, _SMALL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def overlay(
    image: UInt8[np.ndarray, "H W 3"], anomaly_map: Float[np.ndarray, "H W"], boxes: Sequence[Region] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its anomaly map laid over it, its boxes framed, and a legend of the colour scale below.

    The stronger the map, the less of the image shows; the image itself is greyed so that colour means anomaly only.
    The colour scale (inferno) rises evenly in lightness, so that it also reads in grey.

    Args:
      image: RGB, 0 to 255.
      anomaly_map: 0 (normal) to 1; what lies outside is cut.
      boxes: (left, top, right, bottom, score), px of the image.

    Returns:
      RGB at the size of `picture(image)`, and 22 px higher by the legend.

    Raises:
      ValueError: The map is not of the image's size, or not finite.
    """
    if anomaly_map.shape != image.shape[:2]:
        raise ValueError(f"overlay: map {anomaly_map.shape} on an image {image.shape[:2]}: resize the map to the image")
    if not np.isfinite(anomaly_map).all():
        raise ValueError("overlay: the map is not finite")
    base = _resized(Image.fromarray(image))
    strength = Image.fromarray(np.clip(anomaly_map, 0, 1).astype(np.float32), mode="F")
    values = np.asarray(strength.resize(base.size, Image.Resampling.BILINEAR))
    grey = np.asarray(base.convert("L"), np.float64)[..., None].repeat(3, axis=-1)
    opacity = (0.15 + 0.65 * np.clip(values, 0, 1))[..., None]
    blended = grey * (1 - opacity) + _colours(values) * opacity
    canvas = Image.new("RGB", (base.width, base.height + _LEGEND_PX), "white")
    canvas.paste(Image.fromarray(blended.round().astype(np.uint8)))
    draw = ImageDraw.Draw(canvas)
    for left, top, right, bottom, _ in boxes:
        across, down = base.width / image.shape[1], base.height / image.shape[0]
        frame = [left * across, top * down, max(left * across, right * across - 1), max(top * down, bottom * down - 1)]
        # Two rims, so that the frame shows on dark and on bright ground.
        draw.rectangle([frame[0] - 2, frame[1] - 2, frame[2] + 2, frame[3] + 2], outline="black", width=1)
        draw.rectangle([frame[0] - 1, frame[1] - 1, frame[2] + 1, frame[3] + 1], outline="white", width=1)
    _draw_legend(canvas, draw, base.height)
    return np.asarray(canvas)


def write_report(
    path: Path,
    rows: Sequence[InspectionRow],
    *,
    title: str,
    facts: Mapping[str, str],
    pictures: Callable[[int], Pictures],
    totals: Totals | None = None,
    threshold: float | None = None,
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
        pictures=pictures,
        data_uri=_data_uri,
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
    )


def _resized(image: Image.Image) -> Image.Image:
    if min(image.size) < _MIN_PX:
        factor = -(-_MIN_PX // min(image.size))
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if max(image.size) > _MAX_PX:
        factor = _MAX_PX / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _colours(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return np.asarray(matplotlib.colormaps["inferno"](values))[..., :3] * 255.0


def _draw_legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
    """The colour scale from 0 to 1 with its end values, on the strip below the picture."""
    font = ImageFont.load_default(size=12)
    margin = 20
    ramp = _colours(np.linspace(0, 1, canvas.width - 2 * margin)[None].repeat(8, axis=0))
    canvas.paste(Image.fromarray(ramp.round().astype(np.uint8)), (margin, top + 7))
    draw.text((margin - 6, top + 11), "0", fill="black", font=font, anchor="rm")
    draw.text((canvas.width - margin + 6, top + 11), "1", fill="black", font=font, anchor="lm")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _data_uri(encoded: bytes) -> str:
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(encoded).decode("ascii")
