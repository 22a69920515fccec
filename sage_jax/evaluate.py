"""Evaluation of a trained stage on test records, zero-shot and one-shot: answers, scores, maps, rankings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.answer_stream import AnswerStream
from sage_jax.axes import Float, Int
from sage_jax.batch import Answers, Scores, TreeBatch
from sage_jax.config import ModelConfig
from sage_jax.data.chat import Chat, FactsAs
from sage_jax.data.encode import AnswersKept, ChosenRecords, RecordCounts, blank_tiles
from sage_jax.data.facts import Vocabulary
from sage_jax.data.images import decode_mask, remembered_rgb
from sage_jax.data.pipeline import make_eval_batches
from sage_jax.data.preferences import INSPECTION_QUESTION, PLACES
from sage_jax.data.records import Question, Record
from sage_jax.data.tiles import image_size, map_from_tokens
from sage_jax.generate import Responder
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
from sage_jax.run_config import Config
from sage_jax.run_log import RunLog
from sage_jax.stop_request import StopRequest, Watch
from sage_jax.summary import load_summary, record_metrics
from sage_jax.verdict import parse_verdict

Found = TypeVar("Found")

_GROUPS_A_BATCH: Final = 8
"""Parts of a batch's rows that records are taken into at a time: rows wait for half of one, a sixteenth of all."""


@dataclasses.dataclass(frozen=True)
class Examination:
    """What evaluation and inspection need of a model, beside the records.

    Attributes:
      responder: The model.
      chat: Template and tokenizer.
      config: The run.
      vocabulary: Objects, defects and their names.
      weights: Hash of the model's parameters.
      facts_as: How the stage was given its facts.
    """

    responder: Responder
    chat: Chat
    config: Config
    vocabulary: Vocabulary
    weights: str
    facts_as: FactsAs = "fusion"

    def digest(self, **beside: object) -> str:
        """Hash of all that decides an answer to a record, and of what else decides a result."""
        config = self.config
        parts = {
            "weights": self.weights,
            "tokenizer": self.chat.tokenizer_digest(),
            "vocabulary": repr(self.vocabulary),
            "model": dataclasses.asdict(config.model),
            "text": dataclasses.asdict(config.text),
            "decoding": dataclasses.asdict(self.responder.decoding),
            "facts_as": self.facts_as,
            **beside,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def answers(
        self, records: Sequence[Record], *, with_reference: bool, advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Record, Answers]]:
        """Each record and its answers, the batch axis taken off; the next records come in as rows become free.

        Args:
          advance: Takes the number of records done, when the next is asked for.
        """
        rows = self.rows(len(records))
        at_once = self.responder.rows(-(-rows // _GROUPS_A_BATCH))
        batches = self.batches(records, with_reference=with_reference, answers="none", rows=at_once)
        groups = ((batch, draw_seeds(shown_records(batch, records))) for batch in batches)
        stream = AnswerStream(self.responder, num_rows=rows)
        for done, (index, answers) in enumerate(stream.answers(groups), start=1):
            yield records[index], answers
            if advance is not None:
                advance(done)

    def scores(
        self, records: Sequence[Record], *, with_reference: bool, advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Record, Scores]]:
        """Each record and the scores of its questions, the batch axis taken off; nothing is decoded."""
        for batch in self._batches_done(records, with_reference, "none", advance):
            yield from _by_record(shown_records(batch, records), self.responder.scores(batch))

    def rankings(
        self, records: Sequence[Record], *, with_reference: bool, advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Record, np.ndarray]]:
        """Each record and the summed log-probabilities of its questions' answers [Q, N]."""
        for batch in self._batches_done(records, with_reference, "ranked", advance):
            logps = np.where(batch.answer_mask, self.responder.answer_logps(batch), np.nan)
            yield from _by_record(shown_records(batch, records), logps)

    def _batches_done(
        self,
        records: Sequence[Record],
        with_reference: bool,
        answers: AnswersKept,
        advance: Callable[[int], None] | None,
    ) -> Iterator[TreeBatch]:
        """The batches, each counted when the next is asked for."""
        for done, batch in enumerate(self.batches(records, with_reference=with_reference, answers=answers), start=1):
            yield batch
            if advance is not None:
                advance(done)

    def rows(self, num_records: int) -> int:
        """Rows of the batches that so many records come in."""
        return self.responder.rows(min(self.config.evaluate.batch_size, num_records))

    def batches(
        self, records: Sequence[Record], *, with_reference: bool, answers: AnswersKept, rows: int = 0
    ) -> Iterator[TreeBatch]:
        """The records in batches; `rows` fixes their size, so that few records compile nothing anew."""
        return make_eval_batches(
            records,
            chat=self.chat,
            model=self.config.model,
            text=self.config.text,
            batch_size=rows or self.rows(len(records)),
            with_reference=with_reference,
            answers=answers,
            facts_as=self.facts_as,
        )


def shown_records(batch: TreeBatch, records: Sequence[Record]) -> list[Record | None]:
    """The record of each row; None for padding rows."""
    return [records[int(index)] if index >= 0 else None for index in batch.record_index]


def _by_record(shown: Sequence[Record | None], found: Found) -> Iterator[tuple[Record, Found]]:
    """The records of a batch and what was found of each; padding rows are left out."""
    for row, record in enumerate(shown):
        if record is not None:
            yield record, jax.tree.map(operator.itemgetter(row), found)


def draw_seeds(shown: Sequence[Record | None]) -> Int[np.ndarray, " B"]:
    """What tells the draws of records apart: a record's are the same whatever batch it is in."""
    names = ["" if record is None else record.record_id for record in shown]
    return np.asarray([zlib.crc32(name.encode()) >> 1 for name in names], np.int32)


def inspection_record(record: Record) -> Record:
    """The record with the one question that inspection asks: whether there is a defect."""
    return dataclasses.replace(record, questions=(Question(INSPECTION_QUESTION, ()),))


def anomaly_map(
    record: Record, similarity: Float[np.ndarray, " M"], model: ModelConfig
) -> tuple[np.ndarray, Float[np.ndarray, "H W"]]:
    """The test image, and 1 - similarity laid back over it (SFE, step 3): larger where it is unlike its reference."""
    image = remembered_rgb(record.test_image, name=record.test_path, keep=False)
    height, width = image.shape[:2]
    tiled, side = blank_tiles(width, height, model=model), int(np.sqrt(model.tokens_per_tile))
    values = 1.0 - similarity[: len(tiled.tiles) * side**2]
    return image, map_from_tokens(values, tiled, tokens_per_side=side, height=height, width=width)


def evaluate_stage(
    stage: str, examination: Examination, records: Sequence[Record], run: RunLog, *, data_revision: str, mesh: Mesh
) -> None:
    """Scores a stage in both modes; writes predictions and the stage's entries of `summary.json`.

    A mode that an earlier run scored with the same model, data and config is left as it is.

    Raises:
      Interrupted: A signal has come; modes that were done stay, that under way is done anew by the next run.
    """
    path = Path(examination.config.run_dir) / "summary.json"
    scored = scored_of(examination, data_revision)
    for mode in ("zero_shot", "one_shot"):
        name, one_shot = f"{stage}, {mode.replace('_', '-')}", mode == "one_shot"
        if _is_scored(path, stage, mode, scored):
            run.resumed = True
            run.line(f"{name}: scored before, with the same model, data and config")
            continue
        shown = records
        if one_shot:
            with_reference = [index for index, record in enumerate(records) if record.reference_image is not None]
            shown = ChosenRecords(records, with_reference)
        if not len(shown):
            run.line(f"{name}: no test record has a reference image; nothing to score")
            continue
        run.worked = True
        with StopRequest(run.line, mesh, after="this batch; the mode under way is scored anew") as stop:
            watch = Watch(f"{name} was scored; finished modes stay", run.progress, stop)
            predictions, metrics = _answer_metrics(stage, mode, examination, shown, watch)
            metrics |= _detection(name, examination, shown, watch, with_reference=one_shot)
            metrics |= _rankings(name, examination, shown, watch, with_reference=one_shot)
        samples = {"samples": examination.config.evaluate.bootstrap_samples, "seed": examination.config.seed}
        by_kind = accuracy_by_kind(predictions, **samples)
        if jax.process_index() == 0:
            unparsable = count_unparsable(predictions)
            record_metrics(
                path, stage, mode, metrics, accuracy_by_kind=by_kind, unparsable=unparsable, scored_of=scored
            )


def scored_of(examination: Examination, data_revision: str) -> str:
    """Hash of all that decides a stage's metrics: model, test records, config of the evaluation and its seed."""
    config = examination.config
    evaluate = {name: value for name, value in dataclasses.asdict(config.evaluate).items() if name != "stages"}
    return examination.digest(data=data_revision, evaluate=evaluate, seed=config.seed)


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
    stage: str, mode: str, examination: Examination, records: Sequence[Record], watch: Watch
) -> tuple[list[Prediction], dict[str, Metric]]:
    """Accuracy, Acc-G and MLE of generated answers; writes the predictions."""
    config, vocabulary = examination.config, examination.vocabulary
    terms = vocabulary.terms_with(defect.type for record in records for defect in record.defects)
    predictions: list[Prediction] = []
    scores: list[dict[str, object]] = []
    marks: list[float] = []
    with watch.progress(len(records), unit=f"{stage} {mode.replace('_', '-')} record") as advance:
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


def _detection(
    name: str, examination: Examination, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> dict[str, Metric]:
    """AUROC, average precision and F1 of the anomaly score, and pixel AUROC of the map, over distinct images."""
    config = examination.config
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
    batches = -(-len(asked) // examination.rows(len(asked))) if images else 0
    with watch.progress(batches, unit=f"{name} detection batch") as advance:
        for _, found in examination.scores(asked, with_reference=with_reference, advance=advance) if images else ():
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
    name: str, examination: Examination, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> dict[str, Metric]:
    """Ranking accuracy by summed log-probability: best over worst, and adjacent answers."""
    config = examination.config
    indices = [i for i, record in enumerate(records) if any(len(asked.answers) > 1 for asked in record.questions)]
    ranked = ChosenRecords(records, indices)
    samples = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    extreme: list[float] = []
    adjacent: list[float] = []
    images: list[str] = []
    batches = -(-len(ranked) // examination.rows(len(ranked))) if indices else 0
    with watch.progress(batches, unit=f"{name} ranking batch") as advance:
        for record, logps in (
            examination.rankings(ranked, with_reference=with_reference, advance=advance) if indices else ()
        ):
            mask = np.isfinite(logps)
            extreme += ranking.best_over_worst(logps, mask).tolist()
            adjacent += ranking.adjacent(logps, mask).tolist()
            images += [record.image_id] * len(logps)
    return {
        "ranking_best_worst": bootstrap_mean(extreme, images, **samples),
        "ranking_adjacent": bootstrap_mean(adjacent, images, **samples),
    }
