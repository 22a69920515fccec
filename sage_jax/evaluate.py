"""Evaluation of a trained stage on test records, zero-shot and one-shot: answers, scores, maps, rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from sage_jax.axes import Float
from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig
from sage_jax.data.chat import Chat, FactsAs
from sage_jax.data.encode import AnswersKept
from sage_jax.data.facts import Vocabulary
from sage_jax.data.images import decode_mask, decode_rgb
from sage_jax.data.pipeline import make_eval_batches
from sage_jax.data.preferences import INSPECTION_QUESTION, PLACES
from sage_jax.data.records import Question, Record
from sage_jax.data.tiles import map_from_tokens, tile_image
from sage_jax.generate import Answers, Responder
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
    parse_verdict,
    verdict_accuracy,
    write_predictions,
)
from sage_jax.run_config import Config
from sage_jax.run_log import Advance, RunLog
from sage_jax.summary import record_metrics


@dataclasses.dataclass(frozen=True)
class Examination:
    """What evaluation and inspection need of a model, beside the records.

    Attributes:
      responder: The model.
      chat: Template and tokenizer.
      config: The run.
      vocabulary: Objects, defects and their names.
      facts_as: How the stage was given its facts.
    """

    responder: Responder
    chat: Chat
    config: Config
    vocabulary: Vocabulary
    facts_as: FactsAs = "fusion"

    def answers(
        self, records: Sequence[Record], *, with_reference: bool, advance: Advance | None = None
    ) -> Iterator[tuple[Record, Answers]]:
        """Each record and its answers, the batch axis taken off."""
        for done, batch in enumerate(self._batches(records, with_reference, "none"), start=1):
            found = self.responder.answer(batch)
            for row, index in enumerate(batch.record_index):
                if index >= 0:
                    yield (
                        records[int(index)],
                        Answers(found.token_ids[row], found.verdict_score[row], found.similarity[row]),
                    )
            if advance is not None:
                advance(done)

    def rankings(self, records: Sequence[Record], *, with_reference: bool) -> Iterator[tuple[Record, np.ndarray]]:
        """Each record and the summed log-probabilities of its questions' answers [Q, N]."""
        for batch in self._batches(records, with_reference, "ranked"):
            logps = self.responder.answer_logps(batch)
            for row, index in enumerate(batch.record_index):
                if index >= 0:
                    yield records[int(index)], np.where(batch.answer_mask[row], logps[row], np.nan)

    def _batches(self, records: Sequence[Record], with_reference: bool, answers: AnswersKept) -> Iterator[TreeBatch]:
        return make_eval_batches(
            records,
            chat=self.chat,
            model=self.config.model,
            text=self.config.text,
            batch_size=self.responder.rows(min(self.config.evaluate.batch_size, len(records))),
            with_reference=with_reference,
            answers=answers,
            facts_as=self.facts_as,
        )


def inspection_record(record: Record) -> Record:
    """The record with the one question that inspection asks: whether there is a defect."""
    return dataclasses.replace(record, questions=(Question(INSPECTION_QUESTION, ()),))


def anomaly_map(
    record: Record, similarity: Float[np.ndarray, " M"], model: ModelConfig
) -> tuple[np.ndarray, Float[np.ndarray, "H W"]]:
    """The test image, and 1 - similarity laid back over it (SFE, step 3): larger where it is unlike its reference."""
    image = decode_rgb(record.test_image, name=record.test_path)
    tiled = tile_image(image, tile_px=model.vit.tile_px, max_tiles=model.max_tiles)
    side = int(np.sqrt(model.tokens_per_tile))
    values = 1.0 - similarity[: len(tiled.tiles) * side**2]
    height, width = image.shape[:2]
    return image, map_from_tokens(values, tiled, tokens_per_side=side, height=height, width=width)


def evaluate_stage(stage: str, examination: Examination, records: Sequence[Record], run: RunLog) -> None:
    """Scores a stage in both modes; writes predictions and the stage's entries of `summary.json`."""
    run_dir = Path(examination.config.run_dir)
    for mode in ("zero_shot", "one_shot"):
        one_shot = mode == "one_shot"
        shown = [record for record in records if record.reference_image is not None] if one_shot else records
        if not shown:
            run.line(f"{stage}, one-shot: no test record has a reference image; nothing to score")
            continue
        predictions, metrics = _answer_metrics(stage, mode, examination, shown, run)
        metrics |= _detection(examination, shown, with_reference=one_shot)
        metrics |= _rankings(examination, shown, with_reference=one_shot)
        samples = {"samples": examination.config.evaluate.bootstrap_samples, "seed": examination.config.seed}
        by_kind = accuracy_by_kind(predictions, **samples)
        if jax.process_index() == 0:
            path, unparsable = run_dir / "summary.json", count_unparsable(predictions)
            record_metrics(path, stage, mode, metrics, accuracy_by_kind=by_kind, unparsable=unparsable)


def _answer_metrics(
    stage: str, mode: str, examination: Examination, records: Sequence[Record], run: RunLog
) -> tuple[list[Prediction], dict[str, Metric]]:
    """Accuracy, Acc-G and MLE of generated answers; writes the predictions."""
    config, vocabulary = examination.config, examination.vocabulary
    terms = vocabulary.terms_with(defect.type for record in records for defect in record.defects)
    predictions: list[Prediction] = []
    scores: list[dict[str, object]] = []
    marks: list[float] = []
    rows = examination.responder.rows(min(config.evaluate.batch_size, len(records)))
    with run.progress(-(-len(records) // rows), unit=f"{stage} {mode.replace('_', '-')} batch") as advance:
        for record, answers in examination.answers(records, with_reference=mode == "one_shot", advance=advance):
            for number, question in enumerate(record.questions):
                best = question.answers[0].text
                said = examination.chat.decode(np.asarray(answers.token_ids[number]))
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


def _detection(examination: Examination, records: Sequence[Record], *, with_reference: bool) -> dict[str, Metric]:
    """AUROC, average precision and F1 of the anomaly score, and pixel AUROC of the map, over distinct images."""
    config = examination.config
    first = {record.image_id: record for record in records if record.anomalous is not None}
    asked = [inspection_record(record) for record in first.values()]
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    scores: list[float] = []
    maps: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for record, answers in examination.answers(asked, with_reference=with_reference) if asked else ():
        scores.append(float(answers.verdict_score[0]))
        if with_reference:
            image, found = anomaly_map(record, np.asarray(answers.similarity), config.model)
            maps.append(found)
            masks.append(_mask(record, image.shape[:2]))
    metrics = detection_metrics(scores, [bool(record.anomalous) for record in asked], list(first), **samples)
    if with_reference:
        metrics["pixel_auroc"] = pixel_auroc(maps, masks, list(first), **samples)
    return metrics


def _mask(record: Record, shape: tuple[int, int]) -> np.ndarray | None:
    if record.mask is not None:
        return decode_mask(record.mask)
    return np.zeros(shape, bool) if record.anomalous is False else None


def _rankings(examination: Examination, records: Sequence[Record], *, with_reference: bool) -> dict[str, Metric]:
    """Ranking accuracy by summed log-probability: best over worst, and adjacent answers."""
    config = examination.config
    ranked = [record for record in records if any(len(question.answers) > 1 for question in record.questions)]
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    extreme: list[float] = []
    adjacent: list[float] = []
    images: list[str] = []
    for record, logps in examination.rankings(ranked, with_reference=with_reference) if ranked else ():
        mask = np.isfinite(logps)
        extreme += ranking.best_over_worst(logps, mask).tolist()
        adjacent += ranking.adjacent(logps, mask).tolist()
        images += [record.image_id] * len(logps)
    return {
        "ranking_best_worst": bootstrap_mean(extreme, images, **samples),
        "ranking_adjacent": bootstrap_mean(adjacent, images, **samples),
    }
