"""What the page shows, as JSON: the queue, an inspection, what people said, and the scores at other thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

from sage_jax.corrections.entries import Correction, HistoryEntry, InspectionEntry
from sage_jax.corrections.maps import kept_map
from sage_jax.corrections.queries import LabelledScore, categories, last_model, latest_said, pending_by_score, scores
from sage_jax.corrections.store import CorrectionStore
from sage_jax.inspection.report import InspectionRow
from sage_jax.inspection.scores import count_scores, ticks
from sage_jax.review.pictures import PictureMaker
from sage_jax.verdict import parse_verdict

Order = Literal["risk", "score", "contradiction", "newest"]
ORDERS: Final[dict[Order, str]] = {
    "risk": "Near threshold",
    "score": "High score",
    "contradiction": "Contradiction",
    "newest": "Newest",
}
"""Orders of the queue, with their names on the page."""
_NEAR: Final = 0.8
_HIGH_PEAK: Final = 0.5


class Content:
    """The content of the page.

    Args:
      store: Inspections and corrections.
      pictures: Makes their pictures.
    """

    def __init__(self, store: CorrectionStore, pictures: PictureMaker) -> None:
        self._store, self._pictures = store, pictures

    def queue(self, order: Order, *, category: str, limit: int, offset: int) -> dict[str, Any]:
        """Inspections that nobody has corrected, those first that need a look most.

        Raises:
          CorrectionFault: The store cannot be read.
        """
        if order == "score":
            ids = pending_by_score(self._store, limit=limit, offset=offset, category=category)
            found = [self._store.inspection(each) for each in ids]
        else:
            found = self._store.pending(order, limit=limit, offset=offset, category=category)
        counts = dataclasses.asdict(self._store.counts())
        return {"inspections": [self.short(each) for each in found], "counts": counts, **self._categories()}

    def short(self, entry: InspectionEntry) -> dict[str, Any]:
        """An inspection as a list shows it."""
        return {
            "id": entry.id,
            "time": entry.time,
            "name": entry.name,
            "category": entry.category,
            "verdict": entry.verdict,
            "score": entry.score,
            "threshold": entry.threshold,
            "image": entry.image,
            "why": list(reasons_to_look(entry)),
            "correction": None if entry.correction is None else said(entry.correction),
        }

    def whole(self, number: int) -> dict[str, Any]:
        """An inspection with all that is known of it.

        Raises:
          CorrectionFault: There is no such inspection, or a file of it is damaged.
        """
        entry = self._store.inspection(number)
        width, height = self._pictures.size(entry.image)
        return {
            **self.short(entry),
            "references": list(entry.references),
            "has_map": kept_map(self._store, entry.image, entry.references, entry.model) is not None,
            "width": width,
            "height": height,
            "reason": entry.reason,
            "answers": [{"question": question, "answer": answer} for question, answer in entry.answers],
            "boxes": [dict(zip(("left", "top", "right", "bottom", "score"), box, strict=True)) for box in entry.boxes],
            "model": entry.model,
            "source": entry.source,
            "history": [said(each) for each in self._store.history(number)],
        }

    def history(self, *, limit: int, offset: int) -> dict[str, Any]:
        """What people said last, undos too.

        Raises:
          CorrectionFault: The store cannot be read.
        """
        rows = []
        for inspection, row in latest_said(self._store, limit=limit, offset=offset):
            entry = self._store.inspection(inspection)
            known = {each.id: each for each in self._store.history(inspection)}
            undone = any(each.undoes == row for each in known.values())
            stands = entry.correction is not None and entry.correction.id == row
            about = {"inspection": self.short(entry), "undone": undone, "stands": stands}
            rows.append({**said(known[row]), **about})
        return {"rows": rows}

    def thresholds(self) -> dict[str, Any]:
        """What each threshold would call defective, of the inspections by the model that inspected last.

        Raises:
          CorrectionFault: The store cannot be read.
        """
        last = last_model(self._store)
        if last is None:
            return {"total": 0}
        model, threshold = last
        found = count_scores(_rows(scores(self._store, model)), threshold)
        return {
            "total": sum(counts[0] for counts in found.at_or_above.values()),
            "thresholds": found.thresholds,
            "positions": found.positions,
            "above": found.at_or_above,
            "chosen": found.chosen,
            "bars": [dataclasses.asdict(bar) for bar in found.bars()],
            "ticks": ticks(),
        }

    def _categories(self) -> dict[str, Any]:
        return {"categories": categories(self._store)}


def reasons_to_look(entry: InspectionEntry) -> Iterator[str]:
    """Why a person should look at an inspection, in a few words each."""
    if entry.verdict == "unsure":
        yield "the model is unsure"
    elif entry.risk >= _NEAR:
        yield "near the threshold"
    spoken, defective = parse_verdict(entry.reason, entry.language), entry.score >= entry.threshold
    if spoken is not None and spoken != defective:
        yield "words and score disagree"
    if entry.references and defective and not entry.boxes:
        yield "the map shows nothing"
    if not defective and max((box[4] for box in entry.boxes), default=0.0) >= _HIGH_PEAK:
        yield "the map shows a place"


def said(entry: HistoryEntry) -> dict[str, Any]:
    """A row of a history."""
    about = {"row": entry.id, "time": entry.time, "who": entry.who, "undoes": entry.undoes}
    return {**about, "said": None if entry.correction is None else _correction(entry.correction)}


def _correction(given: Correction) -> dict[str, Any]:
    return {
        "right": given.right,
        "verdict": given.verdict,
        "kind": given.kind,
        "box": None if given.box is None else dataclasses.asdict(given.box),
        "cell": given.cell,
        "sentence": given.sentence,
    }


def _rows(found: Iterable[LabelledScore]) -> Iterator[InspectionRow]:
    """Scores as rows of a report, which counts them."""
    for each in found:
        yield InspectionRow("", "", "good", each.score, "", truth=each.truth)
