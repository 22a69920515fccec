"""What a model says of a batch of images to inspect: its questions in one conversation, or each for itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sage_jax.axes import Int
from sage_jax.batch import Answers, TreeBatch
from sage_jax.data.records import Question, Record
from sage_jax.evaluation.evaluator import Evaluator, draw_seeds, inspection_record, shown_records
from sage_jax.generation.arguments import Begun
from sage_jax.generation.decoding import ImagePrefix
from sage_jax.generation.dialogue import Dialogue, fact_record, write_facts
from sage_jax.inspection.agreement import agreeing


@dataclasses.dataclass(frozen=True)
class ImageAnswers:
    """What the model says of an image.

    Attributes:
      record: The image.
      reason: Its answer to the question whether there is a defect.
      verdict_score: P(yes) / (P(yes) + P(no)) of that answer.
      similarity: Of each image token to the reference; 1 without one.
      follow_ups: The questions of `inspect.questions`, each with its answer.
      lengths: Tokens of each answer, the closing ones included.
    """

    record: Record
    reason: str
    verdict_score: float
    similarity: np.ndarray
    follow_ups: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(self.lengths)


def asked_record(record: Record, evaluator: Evaluator, questions: Sequence[str] | None = None) -> Record:
    """The record with the questions that its image's tree holds; those in turn are asked when it has been answered.

    Args:
      questions: Of this image alone, where questions are not asked in turn; None = `inspect.questions`.
    """
    asked = inspection_record(record, evaluator.chat.language)
    options = evaluator.config.inspect
    further = () if options.ask == "in_turn" else (options.questions if questions is None else questions)
    return dataclasses.replace(asked, questions=(*asked.questions, *(Question(each, ()) for each in further)))


def answer_images(batch: TreeBatch, records: Sequence[Record], evaluator: Evaluator) -> Iterator[ImageAnswers]:
    """What the model says of each record of a batch.

    Args:
      batch: Of `records`, which `asked_record` has made.
      records: One for each row; rows behind them are padding.
      evaluator: The model and `inspect.questions`.

    Raises:
      TreeError: A conversation is longer than the largest bucket, where the config has buckets.
    """
    prefix = None
    if evaluator.config.inspect.facts == "model":
        batch, prefix, records = _with_own_facts(batch, records, evaluator)
    shown = shown_records(batch, records)
    seeds = draw_seeds(shown)
    answers, said = _ask(batch, seeds, prefix, evaluator)

    def again(begun: Begun) -> Int[np.ndarray, "B Q L"]:
        return _ask(batch, seeds, prefix, evaluator, begun)[1]

    token_ids, in_turn = agreeing(again, said, shown, evaluator), _in_turn(evaluator)
    for row, record in enumerate(shown):
        if record is not None:
            asked = evaluator.config.inspect.questions if in_turn else [each.text for each in record.questions[1:]]
            reason, *further = (evaluator.chat.decode(ids) for ids in token_ids[row, : len(asked) + 1])
            yield ImageAnswers(
                record,
                reason,
                verdict_score=float(answers.verdict_score[row, 0]),
                similarity=np.asarray(answers.similarity[row]),
                follow_ups=tuple(zip(asked, further, strict=True)),
                lengths=tuple(_num_tokens(ids, evaluator) for ids in token_ids[row, : len(asked) + 1]),
            )


def _in_turn(evaluator: Evaluator) -> bool:
    config = evaluator.config.inspect
    return config.ask == "in_turn" and bool(config.questions)


def _ask(
    batch: TreeBatch,
    seeds: Int[np.ndarray, " B"],
    prefix: ImagePrefix | None,
    evaluator: Evaluator,
    begun: Begun | None = None,
) -> tuple[Answers, Int[np.ndarray, "B Q L"]]:
    """Answers to the batch's own questions, and token ids of all answers, those to questions in turn too.

    Args:
      begun: What the answers to the batch's first questions begin with.
    """
    responder = evaluator.responder
    if not _in_turn(evaluator):
        if prefix is None:
            answers = responder.answer(batch, seeds, begun)
        else:
            answers = responder.answer_from(prefix, batch, seeds, begun)[0]
        return answers, np.asarray(answers.token_ids)
    dialogue = Dialogue(
        responder, evaluator.chat, batch, facts_as=evaluator.facts_as, seeds=seeds, begun=begun, prefix=prefix
    )
    said = [dialogue.said]
    for question in evaluator.config.inspect.questions:
        dialogue.ask(question)
        said.append(dialogue.said)
    return dialogue.answers, np.stack(said, axis=1)


def _num_tokens(ids: np.ndarray, evaluator: Evaluator) -> int:
    closing = evaluator.responder.decoding.closes(ids)
    return int(closing.argmax()) + 1 if closing.any() else len(ids)


def _with_own_facts(
    batch: TreeBatch, records: Sequence[Record], evaluator: Evaluator
) -> tuple[TreeBatch, ImagePrefix, list[Record]]:
    """The batch and its records with facts that the model has written about the images, and their prefix."""
    chat, rows = evaluator.chat, len(batch.record_index)
    how: dict[str, Any] = {"with_reference": bool(batch.reference_tile_mask.any()), "answers": "none", "rows": rows}
    asking = dataclasses.replace(evaluator, facts_as="text")
    (asked,) = asking.batches([fact_record(record, chat) for record in records], **how)
    told, prefix = write_facts(
        evaluator.responder.decoding_with(verdict_threshold=None),  # facts open with no verdict
        chat,
        asked,
        max_new_tokens=evaluator.config.inspect.fact_tokens,
        seeds=draw_seeds(shown_records(batch, records)),
    )
    own = [dataclasses.replace(record, facts=facts) for record, facts in zip(records, told, strict=False)]
    (batch,) = evaluator.batches(own, **how)
    return batch, prefix, own
