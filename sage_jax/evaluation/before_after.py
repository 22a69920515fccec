"""What a model was right about before and after it learnt, on the same images, with paired intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sage_jax.data.adpl.preferences import INSPECTION_QUESTION
from sage_jax.data.records import Question, Record
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.evaluation.answers import Marker
from sage_jax.evaluation.evaluator import Evaluator, inspection_record
from sage_jax.metrics.intervals import Metric, bootstrap_mean
from sage_jax.metrics.paired import paired_gain
from sage_jax.verdict import ScoreShifts, parse_verdict

Values = dict[str, list[float]]
"""1 for right and 0 for wrong, by image."""

Advance = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Compared:
    """A share of right answers before and after.

    Attributes:
      before, after: Each with its 95 % interval.
      gain: Their difference, with the interval of the paired difference.
    """

    before: Metric
    after: Metric
    gain: Metric

    @property
    def fell(self) -> bool:
        """Whether it fell beyond noise: the whole interval of the difference is below 0."""
        return self.gain.high is not None and self.gain.high < 0.0

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {**dataclasses.asdict(self), "fell": self.fell}


def compare(
    before: Mapping[str, Values], after: Mapping[str, Values], *, samples: int, seed: int
) -> dict[str, Compared]:
    """Each measure that has values, before and after.

    Args:
      before, after: Values by measure, of the same images.
      samples, seed: Of the bootstrap.
    """
    found = {}
    for name, values in before.items():
        if any(values.values()):
            means = [_mean(each, samples, seed) for each in (values, after[name])]
            found[name] = Compared(means[0], means[1], paired_gain([values], [after[name]], samples=samples, seed=seed))
    return found


def _mean(values: Values, samples: int, seed: int) -> Metric:
    flat = [(value, image) for image, each in values.items() for value in each]
    return bootstrap_mean([value for value, _ in flat], [image for _, image in flat], samples=samples, seed=seed)


class Inspections(Sequence[Record]):
    """Records with the one question that inspection asks."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return inspection_record(self._records[index])


def right_verdicts(
    evaluator: Evaluator,
    records: Sequence[Record],
    threshold: Mapping[bool, float],
    shifts: Mapping[bool, ScoreShifts],
    advance: Advance,
) -> Values:
    """Whether the verdict on each image is right, as inspection gives it.

    Args:
      records: One or more of each image, with their state.
      threshold: Score from which a part is called defective, with a reference (True) and without.
      shifts: What is added to the scores of kinds of parts, likewise.
      advance: Takes the number of batches done of those with or without a reference.
    """
    values: Values = {}
    for with_reference, part in _by_reference(records):
        judge = dataclasses.replace(evaluator, shifts=shifts[with_reference])
        for record, found in judge.scores(Inspections(part), with_reference=with_reference, advance=advance):
            defective = float(found.verdict_score[0]) >= np.float32(threshold[with_reference])
            values.setdefault(record.image_id, []).append(float(defective == record.anomalous))
    return values


def _by_reference(records: Sequence[Record]) -> Iterator[tuple[bool, Sequence[Record]]]:
    """The records with a reference, then those without; a part without any is left out."""
    for with_reference in (True, False):
        chosen = [i for i, each in enumerate(records) if (each.reference_image is not None) == with_reference]
        if chosen:
            yield with_reference, ChosenRecords(records, chosen)


def right_questions(evaluator: Evaluator, records: Sequence[Record], advance: Advance) -> Values:
    """Whether the verdict on each question of test records is right: the likelier of yes and no.

    Records with a reference are compared with it.

    Args:
      advance: Takes the number of batches done.
    """
    values: Values = {}
    for with_reference, part in _by_reference(records):
        for record, found in evaluator.scores(part, with_reference=with_reference, advance=advance):
            for question, score in zip(record.questions, found.verdict_score, strict=False):
                truth = parse_verdict(question.answers[0].text, evaluator.chat.language)
                if truth is not None:
                    values.setdefault(record.image_id, []).append(float((float(score) > 0.5) == truth))
    return values


def right_reasons(evaluator: Evaluator, records: Sequence[Record], advance: Advance) -> dict[str, Values]:
    """Whether the answer about each defective image names the right kind, and the right place, where they are known.

    Args:
      records: Those that hold the question whether there is a defect are asked it.
      advance: Takes the number of records done.
    """
    marker = Marker(evaluator.vocabulary, records, evaluator.chat.language)
    asked = [i for i, each in enumerate(records) if each.anomalous and _inspection_question(each) is not None]
    found: dict[str, Values] = {"kind": {}, "place": {}}
    for with_reference, part in _by_reference(ChosenRecords(records, asked)):
        whole = {record.record_id: record for record in part}
        for shown, answers in evaluator.answers(Inspections(part), with_reference=with_reference, advance=advance):
            record = whole[shown.record_id]
            question = _inspection_question(record)
            said = evaluator.chat.decode(np.asarray(answers.token_ids[0]))
            marks = None if question is None else marker.mark(record, question, said).reason
            for name, values in found.items() if marks is not None else ():
                right = getattr(marks, name)
                if right is not None:
                    values.setdefault(record.image_id, []).append(float(right))
    return found


def _inspection_question(record: Record) -> Question | None:
    return next((asked for asked in record.questions if asked.text == INSPECTION_QUESTION), None)
