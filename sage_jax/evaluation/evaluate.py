"""Evaluation of a trained stage on test records, zero-shot and one-shot: answers, scores, maps, rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.config import ModelConfig
from sage_jax.data.adpl.preferences import PLACES
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Question, Record
from sage_jax.data.trees.encode import ChosenRecords, RecordCounts
from sage_jax.data.trees.tiles import image_size
from sage_jax.evaluation.evaluator import Evaluator, anomaly_map, inspection_record, scored_of
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import MODES, load_summary, record_metrics
from sage_jax.metrics import ranking
from sage_jax.metrics.detection import detection_metrics
from sage_jax.metrics.intervals import Metric, bootstrap_mean
from sage_jax.metrics.localisation import pixel_auroc
from sage_jax.metrics.mle import judge
from sage_jax.metrics.verdicts import (
    Prediction,
    accuracy_by_kind,
    count_unparsable,
    group_accuracy,
    verdict_accuracy,
    write_predictions,
)
from sage_jax.process.stop_request import StopRequest, Watch
from sage_jax.verdict import parse_verdict


@dataclasses.dataclass(frozen=True)
class ModeDone:
    """A mode of a stage with its metrics in the summary.

    Attributes:
      mode: One of MODES.
      anew: Whether it was scored now; else an earlier run had scored it with the same model, data and config.
    """

    mode: str
    anew: bool


def evaluate_stage(
    stage: str, evaluator: Evaluator, records: Sequence[Record], log: RunLog, *, data_revision: str, mesh: Mesh
) -> Iterator[ModeDone]:
    """Scores a stage zero-shot and one-shot; writes predictions and the stage's entries of `summary.json`.

    Yields:
      Each mode when its metrics are written. A mode without a record is left out.

    Raises:
      Interrupted: A signal has come. Modes that were yielded stay; the one under way is scored anew by the next run.
    """
    path = Path(evaluator.config.run_dir) / "summary.json"
    scored_as = scored_of(evaluator, data_revision)
    for mode in MODES:
        name = f"{stage}, {mode.replace('_', '-')}"
        if _is_scored(path, stage, mode, scored_as):
            log.line(f"{name}: scored before, with the same model, data and config")
            yield ModeDone(mode, anew=False)
            continue
        chosen = records
        if mode == "one_shot":
            with_reference = [index for index, record in enumerate(records) if record.reference_image is not None]
            chosen = ChosenRecords(records, with_reference)
        if not len(chosen):
            log.line(f"{name}: no test record has a reference image; nothing to score")
            continue
        with StopRequest(log.line, mesh, after="this batch; the mode under way is scored anew") as stop:
            watch = Watch(f"{name} was scored; finished modes stay", log.progress, stop)
            _score_mode(stage, mode, evaluator, chosen, watch, path=path, scored_as=scored_as)
        yield ModeDone(mode, anew=True)


def _score_mode(
    stage: str,
    mode: str,
    evaluator: Evaluator,
    records: Sequence[Record],
    watch: Watch,
    *,
    path: Path,
    scored_as: str,
) -> None:
    name, one_shot = f"{stage}, {mode.replace('_', '-')}", mode == "one_shot"
    predictions, metrics = _answer_metrics(stage, mode, evaluator, records, watch)
    metrics |= _detection(name, evaluator, records, watch, with_reference=one_shot)
    metrics |= _rankings(name, evaluator, records, watch, with_reference=one_shot)
    samples = {"samples": evaluator.config.evaluate.bootstrap_samples, "seed": evaluator.config.seed}
    by_kind = accuracy_by_kind(predictions, **samples)
    if jax.process_index() == 0:
        about = {"accuracy_by_kind": by_kind, "unparsable": count_unparsable(predictions), "scored_of": scored_as}
        record_metrics(path, stage, mode, metrics, **about)


def _is_scored(path: Path, stage: str, mode: str, wanted: str) -> bool:
    """Whether summary and predictions of a mode are there; the first process decides for all."""
    scored = False
    if jax.process_index() == 0:
        entry = load_summary(path)["metrics"].get(stage, {}).get(mode, {})
        predictions = path.parent / "predictions" / f"{stage}_{mode}.jsonl"
        scored = entry.get("scored_of") == wanted and predictions.is_file()
    if jax.process_count() > 1:
        scored = bool(multihost_utils.broadcast_one_to_all(np.asarray(scored)))
    return scored


def _answer_metrics(
    stage: str, mode: str, evaluator: Evaluator, records: Sequence[Record], watch: Watch
) -> tuple[list[Prediction], dict[str, Metric]]:
    """Accuracy, Acc-G and MLE of generated answers; writes the predictions."""
    config, vocabulary = evaluator.config, evaluator.vocabulary
    terms = vocabulary.terms_with(defect.type for record in records for defect in record.defects)
    predictions: list[Prediction] = []
    scores: list[dict[str, object]] = []
    marks: list[float] = []
    with watch.progress(len(records), unit=f"{stage} {mode.replace('_', '-')} record") as advance:
        for record, answers in evaluator.answers(records, with_reference=mode == "one_shot", advance=advance):
            for number, question in enumerate(record.questions):
                best = question.answers[0].text
                said = evaluator.chat.decode(np.asarray(answers.token_ids[number]))
                mark = judge(said, best, defect_terms=terms, places=PLACES, synonyms=vocabulary.synonyms)
                predictions.append(_prediction(record, question, said))
                marks.append(mark.average)
                scores.append(
                    {
                        "verdict_score": round(float(answers.verdict_score[number]), 6),
                        "mle": {
                            "accuracy": mark.accuracy,
                            "localization": mark.localization,
                            "logic": mark.logic,
                            "average": mark.average,
                        },
                    }
                )
    if jax.process_index() == 0:
        write_predictions(Path(config.run_dir) / "predictions" / f"{stage}_{mode}.jsonl", predictions, scores)
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    images = [prediction.image_id for prediction in predictions]
    return predictions, {
        "verdict_accuracy": verdict_accuracy(predictions, **samples),
        "acc_g": group_accuracy(predictions, **samples),
        "mle": bootstrap_mean(marks, images, **samples),
    }


def _prediction(record: Record, question: Question, said: str) -> Prediction:
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
        truth=bool(parse_verdict(best)),
    )


def _detection(
    name: str, evaluator: Evaluator, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> dict[str, Metric]:
    """AUROC, average precision and F1 of the anomaly score, and pixel AUROC of the map, over distinct images."""
    config = evaluator.config
    known = {
        record.image_id: (index, record.anomalous)
        for index, record in enumerate(records)
        if record.anomalous is not None
    }
    images = list(known)
    asked = _Asked(records, [index for index, _ in known.values()])
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    scores: list[float] = []
    similarities: list[np.ndarray] = []
    batches = -(-len(asked) // evaluator.rows(len(asked))) if images else 0
    with watch.progress(batches, unit=f"{name} detection batch") as advance:
        for _, found in evaluator.scores(asked, with_reference=with_reference, advance=advance) if images else ():
            scores.append(float(found.verdict_score[0]))
            similarities.append(np.array(found.similarity))
    metrics = detection_metrics(scores, [anomalous for _, anomalous in known.values()], images, **samples)
    if with_reference:
        with watch.progress(2 * len(asked), unit=f"{name} map") as advance:
            maps = _Maps(asked, similarities, config.model, advance)
            metrics["pixel_auroc"] = pixel_auroc(maps, _Masks(asked), images, **samples)
    return metrics


class _Asked(Sequence[Record]):
    """The inspection question on some records of a data set, each read when it is asked for."""

    counts = RecordCounts(questions=1, references=1)

    def __init__(self, records: Sequence[Record], indices: Sequence[int]) -> None:
        self._chosen = ChosenRecords(records, indices)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return inspection_record(self._chosen[index])


class _Maps(Sequence[np.ndarray]):
    """Anomaly maps made from the image tokens when asked for: memory holds a number a token, not a pixel."""

    def __init__(
        self,
        records: Sequence[Record],
        similarities: Sequence[np.ndarray],
        model: ModelConfig,
        advance: Callable[[int], None],
    ) -> None:
        self._records, self._similarities, self._model, self._advance = records, similarities, model, advance
        self._num_made = 0

    def __len__(self) -> int:
        return len(self._similarities)

    def __getitem__(self, index: Any) -> Any:
        found = anomaly_map(self._records[index], self._similarities[index], self._model)[1]
        self._num_made += 1
        self._advance(self._num_made)
        return found


class _Masks(Sequence[np.ndarray | None]):
    """Masks of records, decoded when asked for; None where it is unknown."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        record = self._records[index]
        if record.mask is not None:
            return decode_mask(record.mask)
        if record.anomalous is not False:
            return None
        width, height = image_size(record.test_image, name=record.test_path)
        return np.zeros((height, width), bool)


def _rankings(
    name: str, evaluator: Evaluator, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> dict[str, Metric]:
    """Ranking accuracy by summed log-probability: best over worst, and adjacent answers."""
    config = evaluator.config
    indices = [i for i, record in enumerate(records) if any(len(asked.answers) > 1 for asked in record.questions)]
    ranked = ChosenRecords(records, indices)
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    extreme: list[float] = []
    adjacent: list[float] = []
    images: list[str] = []
    batches = -(-len(ranked) // evaluator.rows(len(ranked))) if indices else 0
    with watch.progress(batches, unit=f"{name} ranking batch") as advance:
        for record, logps in (
            evaluator.rankings(ranked, with_reference=with_reference, advance=advance) if indices else ()
        ):
            mask = np.isfinite(logps)
            extreme += ranking.best_over_worst(logps, mask).tolist()
            adjacent += ranking.adjacent(logps, mask).tolist()
            images += [record.image_id] * len(logps)
    return {
        "ranking_best_worst": bootstrap_mean(extreme, images, **samples),
        "ranking_adjacent": bootstrap_mean(adjacent, images, **samples),
    }
