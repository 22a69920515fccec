"""A model's answers to the items of a question set: by likelihood and in words, never asked twice."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.benchmark.items import ItemRecords
from sage_jax.benchmark.journal import Answered, AnswerJournal
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import ChosenRecords, TreeError, TreeFormat, TreeUse, encode_text
from sage_jax.data.trees.shapes import choose_bucket, most_needed
from sage_jax.errors import UserError
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.journal.run_log import RunLog
from sage_jax.process.stop_request import StopRequest

_BATCHES: Final = 4
"""Batches of a chunk, after which answers are written down: rows wait for the longest answer once in so many."""
_SHOWN: Final = 10


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said to a question.

    Attributes:
      said: What it wrote.
      yes: P(yes) / (P(yes) + P(no)) where its answer begins.
      logps: Summed log-probability of each option's letter and the end of the turn, in nats; none without options.
    """

    said: str
    yes: float
    logps: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The answer, as it stands in the journal."""
        return {"said": self.said, "yes": round(self.yes, 6), "logps": [round(logp, 6) for logp in self.logps]}

    def finite(self, record: Record) -> Answer:
        """The answer itself.

        Raises:
          UserError: A probability is not finite; the message names the record.
        """
        if not np.isfinite([self.yes, *self.logps]).all():
            raise UserError(
                f"record {record.record_id}: the model gives no finite probabilities: its training diverged, or its "
                "weights are not what model.compute_dtype can hold; ask another stage, or set it to float32"
            )
        return self

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        return cls(values["said"], values["yes"], tuple(values["logps"]))


@dataclasses.dataclass(frozen=True)
class AnsweredItems:
    """How far a question set is answered.

    Attributes:
      answers: Of each item that has them, by key; on processes other than the first, none.
      left: Items that a stop has left.
      anew: Items that were answered now.
    """

    answers: dict[str, list[Answer]]
    left: int
    anew: int


@dataclasses.dataclass(frozen=True)
class Questioner:
    """A model, and the way in which it is asked.

    Attributes:
      evaluator: The model.
      records: The items' records, in their order.
      with_reference: Whether rows show references.
      has_options: Whether the questions have options, whose letters are scored.
      max_positions: Longest sequence that the model has positions for; 0 = any.
    """

    evaluator: Evaluator
    records: ItemRecords
    with_reference: bool
    has_options: bool
    max_positions: int = 0

    def answer(
        self, keys: Sequence[str], stamps: Sequence[str], journal: AnswerJournal, log: RunLog, mesh: Mesh
    ) -> AnsweredItems:
        """Answers all items that the journal has not, and writes them there chunk by chunk.

        Ctrl-C and SIGTERM stop after a chunk; a kill loses the running one.

        Raises:
          TreeError: Some text does not fit; nothing has been asked then.
          UserError: The model gives no finite probabilities.
        """
        found = journal.find() if jax.process_index() == 0 else {}
        missing = _missing(keys, stamps, found)
        done = len(keys) - len(missing)
        if done:
            log.line(f"{done} of {len(keys)} items were answered before, {len(missing)} are left")
        self._require_fits(missing, log)
        rows = self.evaluator.rows(len(keys)) * _BATCHES
        start = done
        with (
            StopRequest(log.line, mesh, after="the questions of this chunk of items") as stop,
            log.progress(len(keys), done=done, unit="item") as advance,
        ):
            for begin in range(0, len(missing), rows):
                if stop.agreed():
                    break
                chunk = missing[begin : begin + rows]
                answered = self._chunk(chunk, functools.partial(_advance, advance, done))
                rows_of = [
                    Answered(keys[index], stamps[index], [each.as_json() for each in answers])
                    for index, answers in zip(chunk, answered, strict=True)
                ]
                if jax.process_index() == 0:
                    journal.append(rows_of)
                    found |= {row.key: row for row in rows_of}
                done += len(chunk)
        told = {key: [Answer.from_json(each) for each in found[key].answers] for key in keys if key in found}
        return AnsweredItems(told, left=len(keys) - done, anew=done - start)

    def _chunk(self, indices: Sequence[int], advance: Callable[[int], None]) -> list[list[Answer]]:
        """The answers to some items' questions, in their order."""
        chosen = ChosenRecords(self.records, indices)
        logps: dict[str, np.ndarray] = {}
        if self.has_options:
            ranked = self.evaluator.rankings(chosen, with_reference=self.with_reference)
            logps = {record.record_id: found for record, found in ranked}
        answered = []
        for record, said in self.evaluator.answers(chosen, with_reference=self.with_reference, advance=advance):
            answers = []
            for number, question in enumerate(record.questions):
                scores = logps[record.record_id][number] if question.answers else ()
                words = self.evaluator.chat.decode(np.asarray(said.token_ids[number]))
                options = tuple(float(each) for each in scores[: len(question.answers)])
                answers.append(Answer(words, float(said.verdict_score[number]), options).finite(record))
            answered.append(answers)
        return answered

    def _require_fits(self, indices: Sequence[int], log: RunLog) -> None:
        config = self.evaluator.config
        form = TreeFormat(self.evaluator.chat, config.model, config.text)
        use = TreeUse("ranked" if self.has_options else "none", facts=self.evaluator.facts_as)
        faults: list[str] = []
        with log.progress(len(indices), unit="item's text") as advance:
            for number, index in enumerate(indices, start=1):
                try:
                    self._require_room(self.records[index], form, use)
                except TreeError as error:
                    faults.append(str(error))
                advance(number)
        if faults:
            more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            shown = "\n  ".join(faults[:_SHOWN])
            raise TreeError(f"the questions of {len(faults)} items do not fit: {shown}{more}")

    def _require_room(self, record: Record, form: TreeFormat, use: TreeUse) -> None:
        tokens = encode_text(record, form, use, with_reference=self.with_reference)
        length = most_needed(tokens, 0).length
        choose_bucket([length], [record.record_id], form.text)
        longest = length + self.evaluator.responder.decoding.max_new_tokens
        if 0 < self.max_positions < longest:
            raise TreeError(
                f"record {record.record_id}: its questions and an answer have {longest} tokens, and the RoPE of"
                f" model.weights is the plain one up to {self.max_positions}: lower model.max_tiles or"
                " evaluate.max_new_tokens, or leave benchmark.knowledge empty"
            )


def stamp_of(parts: Sequence[object]) -> str:
    """Hash of what an item was asked about and how, from anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _advance(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


def _missing(keys: Sequence[str], stamps: Sequence[str], found: Mapping[str, Answered]) -> list[int]:
    """Numbers of the items without an answer; the first process decides for all."""
    done = np.array([key in found and found[key].stamp == stamp for key, stamp in zip(keys, stamps, strict=True)])
    if jax.process_count() > 1:
        done = np.asarray(multihost_utils.broadcast_one_to_all(done))
    return np.flatnonzero(~done.astype(np.bool_)).tolist()
