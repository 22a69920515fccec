"""What is kept of an inspection, and what a person says of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

from sage_jax.data.adpl.wording import PLACES
from sage_jax.data.records import Box
from sage_jax.errors import UserError
from sage_jax.verdict import Language, parse_verdict

ModelVerdict = Literal["defective", "good", "unsure"]
TrueVerdict = Literal["defective", "good"]
MODEL_VERDICTS: Final = ("defective", "good", "unsure")
TRUE_VERDICTS: Final = ("defective", "good")

_UNSURE_RISK: Final = 2.0
_MOST_WORDS: Final = 1000
"""Characters of a sentence, a kind or a name."""

Region = tuple[int, int, int, int, float]
"""A peak of the map: left, top, right, bottom in px, right and bottom exclusive, and its score."""


class CorrectionFault(UserError):
    """An inspection or a correction that cannot be kept; the message names the field and the way out."""


class Inspected(Protocol):
    """What the model found in an image: `sage_jax.Inspection` is one."""

    @property
    def image(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def answers(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def boxes(self) -> tuple[Region, ...]: ...


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the model said of an image, with the image itself.

    Attributes:
      image: Encoded image file.
      references: Encoded files of the good images that it was compared with.
      name: File name or other name that people know the image by.
      category: Kind of part.
      verdict: `defective`, `good` or `unsure`.
      score: Anomaly score, 0 to 1.
      threshold: Score from which the verdict was `defective`.
      reason: The model's answer to the question whether there is a defect.
      answers: Further questions, each with the model's answer.
      boxes: Peaks of its map (left, top, right, bottom, score), px.
      model: Revision of the model: its run, version and hash, as the caller names it.
      source: Where the request came from, such as `folder`, `http 10.0.0.7` or `line 3`.
      language: What the answers are written in.
    """

    image: bytes
    references: tuple[bytes, ...]
    name: str
    category: str
    verdict: ModelVerdict
    score: float
    threshold: float
    reason: str = ""
    answers: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Region, ...] = ()
    model: str = ""
    source: str = ""
    language: Language = "en"

    def __post_init__(self) -> None:
        if not self.image:
            raise CorrectionFault(f"{self.name}: the image is empty: give the bytes of its file")
        if self.verdict not in MODEL_VERDICTS:
            raise CorrectionFault(f"{self.name}: verdict {self.verdict!r}: give one of {', '.join(MODEL_VERDICTS)}")
        for field in ("score", "threshold"):
            if not (math.isfinite(getattr(self, field)) and 0.0 <= getattr(self, field) <= 1.0):
                raise CorrectionFault(f"{self.name}: {field} {getattr(self, field)}: give a number from 0 to 1")

    @property
    def risk(self) -> float:
        """How near the score is to the threshold: 1 at it, 0 at the ends of the scale, 2 where the model is unsure."""
        if self.verdict == "unsure":
            return _UNSURE_RISK
        room = 1.0 - self.threshold if self.score >= self.threshold else self.threshold
        return 1.0 - abs(self.score - self.threshold) / room if room else 1.0

    @property
    def contradiction(self) -> float:
        """How much the model's parts disagree about the image, 0 (not at all) to 2.

        1 where the answer says another verdict than the score. Beside it, with a reference: the highest peak of the map
        of a good image, up to 1, or the score of a defective image whose map has no peak.
        """
        said = parse_verdict(self.reason, self.language)
        defective = self.score >= self.threshold
        words = float(said is not None and said != defective)
        if not self.references:
            return words
        if defective:
            return words + (0.0 if self.boxes else self.score)
        return words + min(1.0, max((score for *_, score in self.boxes), default=0.0))


def finding_of(
    inspection: Inspected,
    image: bytes,
    references: Sequence[bytes] = (),
    *,
    threshold: float,
    model: str = "",
    source: str = "",
    language: Language = "en",
) -> Finding:
    """An inspection as the store keeps it.

    Args:
      inspection: What `Inspector.inspect` returned.
      image, references: The encoded files that were inspected.
      threshold: `Inspector.threshold(...).value`.
      model, source, language: As in `Finding`.

    Raises:
      CorrectionFault: The image could not be inspected, so that there is nothing to correct.
    """
    if inspection.score is None:
        raise CorrectionFault(f"{inspection.image}: it could not be inspected: there is no verdict to correct")
    verdict: Any = inspection.verdict
    return Finding(
        image=image,
        references=tuple(references),
        name=inspection.image,
        category=inspection.category,
        verdict=verdict,
        score=float(inspection.score),
        threshold=float(threshold),
        reason=inspection.reason,
        answers=tuple(inspection.answers),
        boxes=tuple(inspection.boxes),
        model=model,
        source=source,
        language=language,
    )


@dataclasses.dataclass(frozen=True)
class Correction:
    """What a person says of an inspection.

    Attributes:
      right: Whether all that the model said is right: verdict, kind and place.
      verdict: What the part is.
      kind: Kind of the defect in a word or two, known to the vocabulary or not; "" = not said.
      box: Place of the defect in px of the image; None = not said, or said as `cell`.
      cell: Place as a cell of the 3 x 3 grid, such as `upper left`; "" = not said.
      sentence: The finding in the person's own words; "" = none.
    """

    right: bool
    verdict: TrueVerdict
    kind: str = ""
    box: Box | None = None
    cell: str = ""
    sentence: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in TRUE_VERDICTS:
            raise CorrectionFault(f"verdict {self.verdict!r}: give one of {', '.join(TRUE_VERDICTS)}")
        if self.verdict == "good" and (self.kind or self.box or self.cell):
            raise CorrectionFault("a good part has no defect: leave out kind, box and cell, or give verdict defective")
        if self.box and self.cell:
            raise CorrectionFault("give the place as a box or as a cell, not as both")
        if self.cell and self.cell not in PLACES:
            raise CorrectionFault(f"cell {self.cell!r}: give one of {', '.join(PLACES)}")
        if self.box and not (0 <= self.box.left < self.box.right and 0 <= self.box.top < self.box.bottom):
            raise CorrectionFault(f"box {self.box}: give left < right and top < bottom, in px from 0")
        for field in ("kind", "sentence"):
            if len(getattr(self, field)) > _MOST_WORDS:
                raise CorrectionFault(f"{field} has more than {_MOST_WORDS} characters: give it shorter")


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """One row of an inspection's history; rows are added and never changed.

    Attributes:
      id: Of the row.
      inspection: Of the inspection.
      time: Seconds since 1970.
      who: The person.
      correction: What was said; None for an undo.
      undoes: Row that an undo takes back; None for a correction.
    """

    id: int
    inspection: int
    time: float
    who: str
    correction: Correction | None
    undoes: int | None


@dataclasses.dataclass(frozen=True)
class InspectionEntry:
    """An inspection as it was kept, without the bytes of its images.

    Attributes:
      id: Of the inspection.
      time: Seconds since 1970.
      image: Digest of the image: `CorrectionStore.image` has its bytes.
      references: Digests of the references.
      name, category, verdict, score, threshold, reason, answers, boxes, model, source, language: As in `Finding`.
      risk, contradiction: As in `Finding`; what `pending` sorts by.
      correction: What stands of its corrections; None where nobody has said anything, or took it back.
    """

    id: int
    time: float
    image: str
    references: tuple[str, ...]
    name: str
    category: str
    verdict: ModelVerdict
    score: float
    threshold: float
    reason: str
    answers: tuple[tuple[str, str], ...]
    boxes: tuple[Region, ...]
    model: str
    source: str
    language: Language
    risk: float
    contradiction: float
    correction: HistoryEntry | None


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of a store.

    Attributes:
      inspections: All of them.
      pending: Those that nobody has corrected.
      right: Corrections that say the model was right.
      over_rejected: Good parts that the model called defective.
      escaped: Defective parts that the model called good.
      settled: Parts that the model was unsure of.
      refined: Right verdicts with another kind or place.
    """

    inspections: int
    pending: int
    right: int
    over_rejected: int
    escaped: int
    settled: int
    refined: int

    @property
    def corrected(self) -> int:
        """Inspections with a standing correction."""
        return self.right + self.over_rejected + self.escaped + self.settled + self.refined
