"""Verdicts read from answers: accuracy, accuracy by kind, Acc-G; and the predictions file."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sage_jax.axes import Float
from sage_jax.metrics.intervals import Metric, bootstrap, bootstrap_mean
from sage_jax.process.files import replace_file
from sage_jax.verdict import Language, parse_verdict


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's answer to one question.

    Attributes:
      record_id: The record; its questions share it.
      image_id: The test image; several records may share it.
      image: Path of the test image.
      pair_type: Kind of the question.
      label: What the image shows, in the data set's words ("good", "scratch"); "" where unknown.
      question: The question's text.
      reference_answer: The best answer known.
      answer: What the model wrote.
      truth: Verdict of the reference answer; None where it opens with none.
      language: What the answer is read in.
    """

    record_id: str
    image_id: str
    image: str
    pair_type: str
    label: str
    question: str
    reference_answer: str
    answer: str
    truth: bool | None
    language: Language = "en"

    @property
    def verdict(self) -> bool | None:
        return parse_verdict(self.answer, self.language)

    @property
    def right(self) -> bool:
        """Whether the verdict is the true one; an unparsable answer is wrong, and so is any where there is no truth."""
        return self.truth is not None and self.verdict is self.truth


def with_verdict(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The answers to questions whose reference answer opens with a verdict: those that verdict metrics are about."""
    return [prediction for prediction in predictions if prediction.truth is not None]


def count_without_verdict(predictions: Sequence[Prediction]) -> int:
    """How many answers are to questions without a verdict, and in no verdict metric."""
    return len(predictions) - len(with_verdict(predictions))


def count_unparsable(predictions: Sequence[Prediction]) -> int:
    """How many answers begin with no verdict though the question has one."""
    return sum(prediction.verdict is None for prediction in with_verdict(predictions))


def verdict_accuracy(predictions: Sequence[Prediction], *, samples: int = 1000, seed: int = 0) -> Metric:
    """Share of questions with the right verdict, 0 to 1, with an interval over images; n counts questions.

    Questions without a verdict are left out, here and in the other metrics of verdicts.
    """
    predictions = with_verdict(predictions)
    right = [float(prediction.right) for prediction in predictions]
    return bootstrap_mean(right, [prediction.image_id for prediction in predictions], samples=samples, seed=seed)


def accuracy_by_kind(predictions: Sequence[Prediction], *, samples: int = 1000, seed: int = 0) -> dict[str, Metric]:
    """Share of questions with the right verdict for each kind that occurs, in alphabetic order."""
    return {
        kind: verdict_accuracy([item for item in predictions if item.pair_type == kind], samples=samples, seed=seed)
        for kind in sorted({prediction.pair_type for prediction in with_verdict(predictions)})
    }


def kinds_told_apart(asked: Sequence[tuple[Prediction, bool | None]], *, samples: int = 1000, seed: int = 0) -> Metric:
    """How well verdicts tell a defect that is asked for from another: 0 to 1, with an interval over images.

    The mean of two shares of right verdicts about defective parts: to questions about what the part shows, and to
    questions about what it does not show. Who sees no more than that the part is defective, and says yes or no to
    both, gets one half, and so does who goes by the question alone. The part shows what is asked for where the true
    verdict is not the one that good parts have for the same text; texts that no good part was asked are left out.

    Args:
      asked: Predictions, and whether their parts are defective; None where unknown.
    """
    of_good: defaultdict[str, set[bool]] = defaultdict(set)
    for each, defective in asked:
        if each.truth is not None and defective is False:
            of_good[each.question].add(each.truth)
    told = [
        (each, each.truth not in of_good[each.question])
        for each, defective in asked
        if defective and each.truth is not None and len(of_good.get(each.question, ())) == 1
    ]
    shown = np.array([shows for _, shows in told], np.float64)
    right = np.array([each.right for each, _ in told], np.float64)

    def mean_of_shares(weights: Float[np.ndarray, "S n"]) -> Float[np.ndarray, " S"]:
        with np.errstate(invalid="ignore"):
            shares = [(weights @ (right * each)) / (weights @ each) for each in (shown, 1.0 - shown)]
        return np.mean(shares, axis=0)

    return bootstrap(mean_of_shares, [each.image_id for each, _ in told], samples=samples, seed=seed)


def group_accuracy(predictions: Sequence[Prediction], *, samples: int = 1000, seed: int = 0) -> Metric:
    """Acc-G: share of records with all verdicts right, 0 to 1, with an interval over images; n counts records."""
    records: defaultdict[str, list[Prediction]] = defaultdict(list)
    for prediction in with_verdict(predictions):
        records[prediction.record_id].append(prediction)
    all_right = [float(all(item.right for item in items)) for items in records.values()]
    return bootstrap_mean(all_right, [items[0].image_id for items in records.values()], samples=samples, seed=seed)


def write_predictions(
    path: Path, predictions: Sequence[Prediction], extra: Sequence[dict[str, object]] | None = None
) -> None:
    """Writes predictions as JSON lines in the field names of the released evaluator, and the kind as `pair_type`.

    `dichotomy` is the verdict read from the prediction and `ground_truth` the true one; an unparsable answer has null,
    which equals neither verdict, so that it counts as wrong there too. `ground_truth` is null without a true one.

    Args:
      path: The file, replaced as a whole.
      predictions: One a line.
      extra: Further fields of each line (anomaly score, judge's scores), in the predictions' order.

    Raises:
      ValueError: `extra` has another length, or would overwrite a field.
    """
    extra = [{}] * len(predictions) if extra is None else extra
    if len(extra) != len(predictions):
        raise ValueError(f"{len(extra)} rows of extra fields for {len(predictions)} predictions: give one each")
    lines = []
    for item, more in zip(predictions, extra, strict=True):
        row: dict[str, object] = {
            "id": item.record_id,
            "image": item.image,
            "label": item.label,
            "question": item.question,
            "answer": item.reference_answer,
            "prediction": item.answer,
            "ground_truth": item.truth,
            "dichotomy": item.verdict,
            "pair_type": item.pair_type,
        }
        taken = row.keys() & more.keys()
        if taken:
            raise ValueError(f"extra field {min(taken)!r} is a field of every prediction: rename it")
        lines.append(json.dumps(row | more, ensure_ascii=False))
    replace_file(path, "".join(line + "\n" for line in lines))


def write_released_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes predictions as the scripts of SAGE's authors read them: one JSON list, the kind of question in `label`.

    `eval.py` compares `ground_truth` with `dichotomy` and takes five rows in order as a group; `mle.py` reads
    `question`, `reference_answer` and `test_answer`. As in `inference.py`, `dichotomy` is true for an answer that opens
    with yes or true and false for any other: one without a verdict counts as no there, and as wrong in our metrics.
    Questions whose reference answer has no verdict are left out.
    """
    rows = [
        {
            "id": item.record_id,
            "image": item.image,
            "label": item.pair_type,
            "question": item.question,
            "answer": item.reference_answer,
            "prediction": item.answer,
            "ground_truth": item.truth,
            "dichotomy": item.verdict is True,
            "reference_answer": item.reference_answer,
            "test_answer": item.answer,
        }
        for item in with_verdict(predictions)
    ]
    replace_file(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
