"""What is asked of a model about records, by evaluation and inspection alike: answers, scores, rankings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import jax
import numpy as np

from sage_jax.axes import Int
from sage_jax.batch import Answers, Scores, TreeBatch
from sage_jax.config import Config
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.adpl.wording import INSPECTION_QUESTIONS
from sage_jax.data.records import Question, Record
from sage_jax.data.stream.pipeline import make_eval_batches
from sage_jax.data.trees.chat import Chat, FactsAs
from sage_jax.data.trees.encode import AnswersKept, TreeFormat, TreeUse
from sage_jax.evaluation.baselines import difference_peak
from sage_jax.generation.continuous_batching import ContinuousBatching
from sage_jax.generation.responder import Responder
from sage_jax.process.device_memory import smallest_free
from sage_jax.verdict import Language, ScoreShifts

Found = TypeVar("Found")

_GROUPS_A_BATCH: Final = 8
"""Parts of a batch's rows that records are taken into at a time: rows wait for half of one, a sixteenth of all."""

_MOST_ROWS: Final = 512
"""Rows beyond which a decoding step of any model takes as much longer as there are more rows."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What evaluation and inspection need of a model, beside the records.

    Attributes:
      responder: The model.
      chat: Template and tokenizer.
      config: The run.
      vocabulary: Objects, defects and their names.
      weights: Hash of the model's parameters.
      facts_as: How the stage was given its facts.
      facts_written: Hash of what decided the facts that a model wrote about the images; "" = none are read.
      shifts: What calibration adds to the scores of kinds of parts.
    """

    responder: Responder
    chat: Chat
    config: Config
    vocabulary: Vocabulary
    weights: str
    facts_as: FactsAs = "fusion"
    facts_written: str = ""
    shifts: ScoreShifts = ScoreShifts()

    def digest(self, **beside: object) -> str:
        """Hash of all that decides an answer to a record, and of what else decides a result."""
        config, decoding = self.config, dataclasses.asdict(self.responder.decoding)
        if self.responder.decoding.joint_score is None:
            del decoding["joint_score"]  # as it was before there was one: results of then still stand
        parts = {
            "weights": self.weights,
            "tokenizer": self.chat.tokenizer_digest(),
            "vocabulary": repr(self.vocabulary),
            "model": dataclasses.asdict(config.model),
            "text": dataclasses.asdict(config.text),
            "decoding": decoding,
            "facts_as": self.facts_as,
            **({"facts_written": self.facts_written} if self.facts_written else {}),
            **({"shifts": dataclasses.asdict(self.shifts)} if self.shifts else {}),
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
        rows, by_memory = self.rows(len(records)), not self.config.evaluate.batch_size
        at_once = self.responder.rows(-(-rows // _GROUPS_A_BATCH))
        if by_memory and smallest_free() is not None:
            rows = self.responder.rows(min(_MOST_ROWS, len(records)))
        batches = self.batches(records, with_reference=with_reference, answers="none", rows=at_once)
        groups = ((batch, draw_seeds(shown_records(batch, records))) for batch in batches)
        stream = ContinuousBatching(self.responder, num_rows=rows, by_memory=by_memory)
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
        return self.responder.rows(min(self.config.evaluate.rows, num_records))

    def batches(
        self, records: Sequence[Record], *, with_reference: bool, answers: AnswersKept, rows: int = 0
    ) -> Iterator[TreeBatch]:
        """The records in batches; `rows` fixes their size, so that few records compile nothing anew."""
        form, use = TreeFormat(self.chat, self.config.model, self.config.text), TreeUse(answers, facts=self.facts_as)
        batch_size = rows or self.rows(len(records))
        batches = make_eval_batches(records, form, use, batch_size=batch_size, with_reference=with_reference)
        joint = self.responder.decoding.joint_score
        weight = joint.difference if joint is not None and with_reference else 0.0
        if not (self.shifts or weight):
            return batches
        return (self._shifted(batch, records, weight) for batch in batches)

    def _shifted(self, batch: TreeBatch, records: Sequence[Record], weight: float) -> TreeBatch:
        """The batch with what is added to the log-odds of its scores.

        Args:
          weight: Of the difference of pixels, which the devices do not compute.
        """
        added = np.zeros(len(batch.record_index), np.float32)
        for row, record in enumerate(shown_records(batch, records)):
            if record is not None:
                apart = weight * difference_peak(record) if weight and record.references else 0.0
                added[row] = self.shifts.of(record.category) + apart
        return dataclasses.replace(batch, score_shift=added)


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


def inspection_record(record: Record, language: Language = "en") -> Record:
    """The record with the one question that inspection asks: whether there is a defect."""
    return dataclasses.replace(record, questions=(Question(INSPECTION_QUESTIONS[language], ()),))


def scored_of(evaluator: Evaluator, data_revision: str) -> str:
    """Hash of all that decides a stage's metrics: model, test records, config of the evaluation and its seed."""
    config = evaluator.config
    evaluate = {name: value for name, value in dataclasses.asdict(config.evaluate).items() if name != "stages"}
    return evaluator.digest(data=data_revision, evaluate=evaluate, seed=config.seed)
