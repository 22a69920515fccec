"""The result of an inspection: one image's verdict, score, reason, answers, map and boxes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from sage_jax.axes import Float, UInt8
from sage_jax.config import Config
from sage_jax.errors import UserError
from sage_jax.evaluation.maps import anomaly_map
from sage_jax.inspection.looks import look_of
from sage_jax.inspection.overlay import Region, overlay, picture
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.inspection.report import Verdict
from sage_jax.metrics.familiarity import Familiarity
from sage_jax.metrics.localisation import peak_boxes
from sage_jax.process.files import replace_file

_MOST_BOXES = 5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """The model's finding on one image.

    Attributes:
      image: Path of the image, or the name that was given for it.
      category: Kind of part; "" where unknown.
      verdict: `defective` or `good`; `unsure` for an image unlike those calibrated on, whatever its score; `unreadable`
        for one that could not be inspected.
      score: Anomaly score, 0 to 1: P(yes) / (P(yes) + P(no)), or as a calibration has joined it with the map's peak;
        None where unreadable.
      reason: The model's answer to the question whether there is a defect.
      answers: Further questions, each with the model's answer.
      boxes: Peaks of the tokens' map (left, top, right, bottom, score), px of the image, right and bottom exclusive.
      anomaly_map: How unlike the reference each pixel is, from 0 (alike), see `evaluation.maps`; None without one.
      map_peak: 1 - the least similarity of an image token to the reference; None without one.
      difference_peak: The largest absolute difference of pixels to the reference, 0 to 1, of models for registered
        pairs; None of others, and without a reference.
      reference: Path or name of the reference that the image was compared with, the first of several; "" without one.
      num_references: References that it was compared with.
      doubt: Why the verdict is unsure; "" where it is not.
      facts: Sentences about the object and its typical anomalies that the model was given, or wrote first.
      pixels: The image, RGB 0 to 255; None where unreadable.
      error: Why the image could not be inspected; "" where it could.
    """

    image: str
    category: str
    verdict: Verdict
    score: float | None
    reason: str = ""
    answers: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Region, ...] = ()
    anomaly_map: Float[np.ndarray, "H W"] | None = None
    map_peak: float | None = None
    difference_peak: float | None = None
    reference: str = ""
    num_references: int = 0
    doubt: str = ""
    facts: tuple[str, ...] = ()
    pixels: UInt8[np.ndarray, "H W 3"] | None = None
    error: str = ""

    def __str__(self) -> str:
        if self.score is None:
            return f"{self.image}: unreadable\n  {self.error}"
        lines = [f"{self.image}: {self.verdict}, score {self.score:.3f}"]
        lines += [f"  unsure: {self.doubt}"] if self.doubt else []
        lines.append(f"  {self.reason}")
        lines += [f"  {question} {answer}" for question, answer in self.answers]
        if self.reference:
            others = f" and {self.num_references - 1} more" if self.num_references > 1 else ""
            lines.append(f"  compared with {self.reference}{others}")
        for left, top, right, bottom, score in self.boxes:
            lines.append(f"  map peak {score:.2f} in x {left} to {right}, y {top} to {bottom}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        score = "None" if self.score is None else f"{self.score:.4f}"
        return f"Inspection(image={self.image!r}, verdict={self.verdict!r}, score={score}, reason={self.reason!r})"

    def save_overlay(self, path: Path | str) -> Path:
        """Writes the image with its map laid over it and its boxes framed, as a PNG; the folder is made.

        Raises:
          UserError: There is no map, because the image was unreadable or had no reference.
        """
        if self.pixels is None or self.anomaly_map is None:
            why = self.error or "it was inspected without a reference: give one, such as references=[good]"
            raise UserError(f"{self.image} has no anomaly map: {why}")
        drawn = picture(overlay(self.pixels, np.clip(self.anomaly_map, 0.0, 1.0), self.boxes))
        replace_file(Path(path), drawn)
        return Path(path)


def make_inspection(answers: ImageAnswers, config: Config, familiarity: Familiarity | None = None) -> Inspection:
    """The finding of a model's answers, under the thresholds of `inspect`.

    Args:
      familiarity: Where the model knows what its images look like: an image unlike them is `unsure`.
    """
    record, score, options = answers.record, answers.verdict_score, config.inspect
    verdict: Verdict = "defective" if score >= np.float32(options.threshold) else "good"  # as the model compares them
    found = anomaly_map(record, answers.similarity, config)
    compared = record.reference_image is not None
    doubt = "" if familiarity is None else familiarity.doubt(look_of(record, config.data.shrink_px))
    boxes = peak_boxes(found.tokens, threshold=options.map_threshold, max_boxes=_MOST_BOXES) if compared else ()
    return Inspection(
        image=record.test_path,
        category=record.category,
        verdict="unsure" if doubt else verdict,
        score=score,
        reason=answers.reason,
        answers=answers.follow_ups,
        boxes=tuple(boxes),
        anomaly_map=found.values if compared else None,
        map_peak=1.0 - float(answers.similarity.min()) if compared else None,
        difference_peak=found.apart,
        reference=record.reference_path if compared else "",
        num_references=len(record.references),
        doubt=doubt,
        facts=record.facts[: config.text.max_facts],
        pixels=found.image,
    )


def unreadable(image: str, category: str, error: str) -> Inspection:
    """The finding on an image that could not be inspected."""
    return Inspection(image, category, "unreadable", None, error=error)
