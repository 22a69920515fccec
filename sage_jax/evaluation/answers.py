"""Answers marked: verdict, reason and MLE of each, and the metrics made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.adpl.preferences import PLACES, cell_of
from sage_jax.data.question_verdicts import QuestionVerdicts, text_only_by_kind
from sage_jax.data.records import PAIR_TYPES, Question, Record
from sage_jax.data.trees.tiles import image_size
from sage_jax.metrics.intervals import Metric, bootstrap_mean
from sage_jax.metrics.mle import MleScore, Reading, judge, read
from sage_jax.metrics.reasons import ReasonMarks, Truth, best_constant, contradicts, mark_reason
from sage_jax.metrics.verdicts import (
    Prediction,
    accuracy_by_kind,
    count_unparsable,
    count_without_verdict,
    group_accuracy,
    kinds_told_apart,
    verdict_accuracy,
    with_verdict,
)
from sage_jax.verdict import Language, parse_verdict

OPEN_KIND: Final = PAIR_TYPES[0]
"""Kind of question whose text asks for no kind of defect and for no consequence: standard comparison."""


@dataclasses.dataclass(frozen=True)
class MarkedAnswer:
    """An answer and what of it is right.

    Attributes:
      prediction: The answer.
      mle: Marks by the rubric judge; None where the best answer opens with no verdict, which the rubric goes by, and in
        another language than English.
      anomalous: Whether the part is defective; None where unknown.
      truths: Kind and cell of each defect whose kind is known.
      is_open: Whether the question names no kind of defect: its answer's reason is the model's own. False where it is
        not English, and nothing reads it.
      said: What the answer states.
      reason: Marks of the reason; None unless the question is open and the part has defects of known kinds.
    """

    prediction: Prediction
    mle: MleScore | None
    anomalous: bool | None
    truths: tuple[Truth, ...]
    is_open: bool
    said: Reading
    reason: ReasonMarks | None

    @property
    def contradicts(self) -> bool | None:
        """Whether words and verdict disagree; None where the question does not tell what "yes" means."""
        if not self.is_open or self.anomalous is None or self.prediction.truth is None:
            return None
        return contradicts(self.said, abnormal_yes=self.prediction.truth == self.anomalous)

    def as_json(self) -> dict[str, Any]:
        """The marks, as they stand in the predictions file."""
        mle = None if self.mle is None else {**dataclasses.asdict(self.mle), "average": self.mle.average}
        return {"mle": mle, "reason": None if self.reason is None else dataclasses.asdict(self.reason)}


class Marker:
    """Marks answers about the records of a data set."""

    def __init__(self, vocabulary: Vocabulary, records: Sequence[Record], language: Language = "en") -> None:
        """`records` are all that will be marked: their kinds count beside those that the vocabulary lists.

        Rubric and reasons read English words: in another `language`, verdicts alone are marked.
        """
        self._language: Language = language
        self._vocabulary = vocabulary
        terms = vocabulary.terms_with(defect.type for record in records for defect in record.defects)
        self._names = {"defect_terms": terms, "places": PLACES, "synonyms": vocabulary.synonyms}

    def mark(self, record: Record, question: Question, answer: str) -> MarkedAnswer:
        """The marks of one answer."""
        if self._language != "en":
            return self._verdict_alone(record, question, answer)
        best = question.answers[0].text
        truths = self._truths(record, best)
        said = read(answer, **self._names)
        asked = read(f"yes {question.text}", **self._names)
        is_open = record.pair_type == OPEN_KIND and not asked.terms
        marked = is_open and bool(record.anomalous) and bool(truths)
        return MarkedAnswer(
            prediction=_prediction(record, question, answer, self._language),
            mle=None if parse_verdict(best) is None else judge(answer, best, **self._names),
            anomalous=record.anomalous,
            truths=truths,
            is_open=is_open,
            said=said,
            reason=mark_reason(said, truths) if marked else None,
        )

    def _verdict_alone(self, record: Record, question: Question, answer: str) -> MarkedAnswer:
        prediction = _prediction(record, question, answer, self._language)
        said = Reading(prediction.verdict, "", frozenset(), frozenset())
        return MarkedAnswer(prediction, None, record.anomalous, (), is_open=False, said=said, reason=None)

    def _truths(self, record: Record, best: str) -> tuple[Truth, ...]:
        """Kinds and cells of the annotated defects, or else those that the best answer names."""
        if record.defects:
            words = [self._vocabulary.defect_of(defect.type) for defect in record.defects]
            if any(each.generic for each in words):
                return ()
            if record.mask is None:
                return tuple((each.term, "") for each in words)
            size = image_size(record.test_image, name=record.test_path)
            return tuple(
                (each.term, cell_of(defect.box, *size)) for each, defect in zip(words, record.defects, strict=True)
            )
        named = read(best, **self._names).clauses
        return tuple((term, place) for terms, places in named for term in terms for place in places or {""})


def _prediction(record: Record, question: Question, said: str, language: Language) -> Prediction:
    best = question.answers[0].text
    label = ", ".join(dict.fromkeys(defect.type for defect in record.defects))
    return Prediction(
        record_id=record.record_id,
        image_id=record.image_id,
        image=record.test_path,
        pair_type=record.pair_type,
        label=label or ("good" if record.anomalous is False else ""),
        question=question.text,
        reference_answer=best,
        answer=said,
        truth=parse_verdict(best, language),
        language=language,
    )


def answer_metrics(marked: Sequence[MarkedAnswer], *, samples: int, seed: int) -> dict[str, Metric]:
    """Metrics of answers, each with an interval over images: verdicts, reasons, consistency, MLE."""
    drawn = {"samples": samples, "seed": seed}

    def mean(value: Callable[[MarkedAnswer], float | bool | None]) -> Metric:
        """Over the answers that have the value."""
        told = [(found, item.prediction.image_id) for item in marked if (found := value(item)) is not None]
        return bootstrap_mean([float(each) for each, _ in told], [image for _, image in told], **drawn)

    def named_though_good(item: MarkedAnswer) -> bool | None:
        good = item.is_open and item.anomalous is False
        return item.said.state in ("defective", "both") if good else None

    predictions = [item.prediction for item in marked]
    about_kinds = [(each.prediction, each.anomalous) for each in marked if each.prediction.pair_type != OPEN_KIND]
    return {
        "reason_kind": mean(lambda item: item.reason and item.reason.kind),
        "reason_place": mean(lambda item: item.reason and item.reason.place),
        "reason_both": mean(lambda item: item.reason and item.reason.both),
        "named_though_good": mean(named_though_good),
        "consistency": mean(lambda item: None if item.contradicts is None else not item.contradicts),
        "verdict_accuracy": verdict_accuracy(predictions, **drawn),
        "kinds_told_apart": kinds_told_apart(about_kinds, **drawn),
        "acc_g": group_accuracy(predictions, **drawn),
        "mle": mean(lambda item: item.mle and item.mle.average),
        **_mle_parts(mean),
    }


def place_agreement(
    marked: Sequence[MarkedAnswer], cells: Mapping[str, frozenset[str]], *, samples: int, seed: int
) -> Metric:
    """How often every place that an answer names is the cell of a region of the map, where both exist.

    Over answers to open questions about defective parts that name a place, of images whose map has a region. It says
    nothing about whether the place is right, only whether words and map are of one mind.

    Args:
      cells: Cells of the map's regions, by image id.
    """
    told = [
        (item.said.places <= cells[item.prediction.image_id], item.prediction.image_id)
        for item in marked
        if item.is_open and item.anomalous and item.said.places and cells.get(item.prediction.image_id)
    ]
    return bootstrap_mean([float(agree) for agree, _ in told], [image for _, image in told], samples=samples, seed=seed)


def _mle_parts(mean: Callable[[Callable[[MarkedAnswer], float | bool | None]], Metric]) -> dict[str, Metric]:
    """MLE's parts on defective and on good parts, and the share of answers on defective parts right in all three."""

    def part(name: str, anomalous: bool) -> Metric:
        return mean(lambda item: getattr(item.mle, name) if item.mle and item.anomalous is anomalous else None)

    states = {"defective": True, "good": False}
    parts = {
        f"mle_{name}_{state}": part(name, anomalous)
        for state, anomalous in states.items()
        for name in ("accuracy", "localization", "logic")
    }
    all_right = mean(lambda item: item.mle.average == 5.0 if item.mle and item.anomalous else None)
    return {**parts, "mle_all_right_defective": all_right}


def _best_cell(marked: Sequence[MarkedAnswer], cells: Mapping[str, frozenset[str]]) -> dict[str, float | None]:
    defective = {item.prediction.image_id for item in marked if item.is_open and item.anomalous}
    found = [cells[image] for image in sorted(defective) if cells.get(image)]
    shares = (sum(cell in each for each in found) / len(found) for cell in PLACES if found)
    return {"agreement": max(shares, default=None)}


def about_answers(
    marked: Sequence[MarkedAnswer],
    known: QuestionVerdicts,
    cells: Mapping[str, frozenset[str]],
    *,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """What stands beside the metrics: accuracy by kind of question, answers without a verdict, and two readers to beat.

    `best_constant` has what the best answer gets that is the same for all images; `text_only`, by kind of question,
    what a reader of the question alone gets, who knows the training questions. `agreement` in the first is how often
    one and the same cell is one of the map's (`cells`, by image id).
    """
    predictions = [item.prediction for item in marked]
    images = {item.prediction.image_id: item.truths for item in marked if item.reason is not None}
    return {
        "accuracy_by_kind": accuracy_by_kind(predictions, samples=samples, seed=seed),
        "unparsable": count_unparsable(predictions),
        "without_verdict": count_without_verdict(predictions),
        "best_constant": best_constant(list(images.values())) | _best_cell(marked, cells),
        "text_only": text_only_by_kind(
            known, ((item.pair_type, item.question, bool(item.truth)) for item in with_verdict(predictions))
        ),
    }
