"""Evaluation of a trained stage on test records, zero-shot and one-shot: answers, scores, maps, rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.axes import Float
from sage_jax.data.question_verdicts import QuestionVerdicts
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.evaluation.answers import MarkedAnswer, Marker, about_answers, answer_metrics, place_agreement
from sage_jax.evaluation.detection import detection
from sage_jax.evaluation.evaluator import Evaluator, scored_of
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import MODES, load_summary, record_metrics
from sage_jax.metrics import ranking
from sage_jax.metrics.intervals import Metric, bootstrap_mean
from sage_jax.metrics.verdicts import write_predictions, write_released_predictions
from sage_jax.process.checksums import file_sum
from sage_jax.process.stop_request import StopRequest, Watch


@dataclasses.dataclass(frozen=True)
class ModeDone:
    """A mode of a stage with its metrics in the summary.

    Attributes:
      mode: One of MODES.
      anew: Whether it was scored now; else an earlier run had scored it with the same model, data and config.
    """

    mode: str
    anew: bool


@dataclasses.dataclass(frozen=True)
class TestData:
    """The test records of a data set, and where results on them go.

    Attributes:
      records: The records.
      known: Verdicts of the training questions, which a reader of the text alone would know.
      revision: Of the data set.
      source: What the data set is, in words.
      folder: Gets `summary.json` and `predictions/`.
    """

    records: Sequence[Record]
    known: QuestionVerdicts
    revision: str
    source: str
    folder: Path


def evaluate_stage(
    stage: str, evaluator: Evaluator, tested: TestData, log: RunLog, *, mesh: Mesh
) -> Iterator[ModeDone]:
    """Scores a stage zero-shot and one-shot; writes predictions and the stage's entries of `summary.json`.

    Yields:
      Each mode when its metrics are written. A mode without a record is left out.

    Raises:
      Interrupted: A signal has come. Modes that were yielded stay; the one under way is scored anew by the next run.
    """
    records = tested.records
    scored_as = scored_of(evaluator, tested.revision)
    if evaluator.chat.language != "en":
        log.line(f"{stage}: MLE by the rubric and what reasons say are left out: they read English words alone")
    for mode in MODES:
        name = f"{stage}, {mode.replace('_', '-')}"
        if _is_scored(tested.folder, stage, mode, scored_as):
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
            shown = dataclasses.replace(tested, records=chosen)
            _score_mode(stage, mode, evaluator, shown, watch, scored_as=scored_as)
        yield ModeDone(mode, anew=True)


def _score_mode(stage: str, mode: str, evaluator: Evaluator, tested: TestData, watch: Watch, *, scored_as: str) -> None:
    name, one_shot = f"{stage}, {mode.replace('_', '-')}", mode == "one_shot"
    samples = {"samples": evaluator.config.evaluate.bootstrap_samples, "seed": evaluator.config.seed}
    marked = _answer(stage, mode, evaluator, tested, watch)
    metrics = answer_metrics(marked, **samples)
    detected = detection(name, evaluator, tested.records, watch, with_reference=one_shot)
    if one_shot:
        metrics["place_agreement"] = place_agreement(marked, detected.cells, **samples)
    metrics |= detected.metrics
    metrics |= _rankings(name, evaluator, tested.records, watch, with_reference=one_shot)
    if jax.process_index() == 0:
        about = about_answers(marked, tested.known, detected.cells, **samples)
        about |= {"data": tested.source, "revision": tested.revision, "scored_of": scored_as}
        about |= {"detection_by_category": detected.by_category, "detection_means": detected.means}
        about["predictions"] = file_sum(tested.folder / "predictions" / f"{stage}_{mode}.jsonl")
        record_metrics(tested.folder / "summary.json", stage, mode, metrics, about)


def _is_scored(folder: Path, stage: str, mode: str, wanted: str) -> bool:
    """Whether summary and predictions of a mode are there, and whole; the first process decides for all."""
    scored = False
    if jax.process_index() == 0:
        entry = load_summary(folder / "summary.json")["metrics"].get(stage, {}).get(mode, {})
        predictions = folder / "predictions" / f"{stage}_{mode}.jsonl"
        scored = entry.get("scored_of") == wanted and predictions.is_file()
        scored = scored and file_sum(predictions) == entry.get("predictions")
    if jax.process_count() > 1:
        scored = bool(multihost_utils.broadcast_one_to_all(np.asarray(scored)))
    return scored


def _answer(stage: str, mode: str, evaluator: Evaluator, tested: TestData, watch: Watch) -> list[MarkedAnswer]:
    """Generated answers to all questions, marked; writes the predictions."""
    records = tested.records
    marker = Marker(evaluator.vocabulary, records, evaluator.chat.language)
    marked: list[MarkedAnswer] = []
    scores: list[float] = []
    with watch.progress(len(records), unit=f"{stage} {mode.replace('_', '-')} record") as advance:
        for record, answers in evaluator.answers(records, with_reference=mode == "one_shot", advance=advance):
            for number, question in enumerate(record.questions):
                said = evaluator.chat.decode(np.asarray(answers.token_ids[number]))
                marked.append(marker.mark(record, question, said))
                scores.append(float(answers.verdict_score[number]))
    if jax.process_index() == 0:
        told = [{"verdict_score": round(score, 6)} for score in scores]
        extra: list[dict[str, object]] = [{**row, **item.as_json()} for row, item in zip(told, marked, strict=True)]
        path = tested.folder / "predictions" / f"{stage}_{mode}.jsonl"
        write_predictions(path, [item.prediction for item in marked], extra)
        write_released_predictions(path.with_suffix(".json"), [item.prediction for item in marked])
    return marked


def _scores(record: Record, shape: tuple[int, ...]) -> Float[np.ndarray, "Q N"]:
    """Judge scores of a record's answers; those of a question of which some answer has none fall with the rank."""
    found = np.broadcast_to(-np.arange(shape[1], dtype=np.float64), shape).copy()
    for row, question in zip(found, record.questions, strict=False):
        scores = [answer.score for answer in question.answers if answer.score is not None]
        if len(scores) == len(question.answers):
            row[: len(scores)] = scores
    return found


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
            scores = _scores(record, mask.shape)
            extreme += ranking.best_over_worst(logps, mask, scores).tolist()
            adjacent += ranking.adjacent(logps, mask, scores).tolist()
            images += [record.image_id] * len(logps)
    return {
        "ranking_best_worst": bootstrap_mean(extreme, images, **samples),
        "ranking_adjacent": bootstrap_mean(adjacent, images, **samples),
    }
