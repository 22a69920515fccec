"""Conversations about the images of a batch: the images once, then question after question to all of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from sage_jax.axes import Int
from sage_jax.batch import TreeBatch
from sage_jax.data.records import Question, Record
from sage_jax.data.trees.chat import Chat, FactsAs
from sage_jax.data.trees.encode import TreeError
from sage_jax.data.trees.shapes import bucket_for
from sage_jax.generation.arguments import Begun
from sage_jax.generation.decoding import ImagePrefix
from sage_jax.generation.responder import Responder, compiled_size


def write_facts(
    responder: Responder,
    chat: Chat,
    batch: TreeBatch,
    *,
    max_new_tokens: int,
    seeds: Int[np.ndarray, " B"] | None = None,
) -> tuple[list[tuple[str, ...]], ImagePrefix]:
    """The facts that the model itself writes about each image (SFE, step 1), and the images' prefixes.

    Those conversations, `Dialogue` or `Responder.answer_from`, read the images no second time.

    Args:
      batch: Images with `fact_record`'s question, without facts (`make_eval_batches`, answers `none`, facts as `text`).
      max_new_tokens: Longest text of an image's facts.
      seeds: Of each row's draws, see `Responder.answer`.

    Returns:
      Fact sentences of each row, none of padding rows.
    """
    prefix = responder.encode_prefix(batch)
    answers, _ = responder.answer_from(prefix, batch, seeds, max_new_tokens=max_new_tokens)
    said = zip(np.asarray(answers.token_ids)[:, 0], np.asarray(batch.record_index), strict=True)
    return [chat.written_facts(ids) if index >= 0 else () for ids, index in said], prefix


def fact_record(record: Record, chat: Chat, prompt: str = "") -> Record:
    """The record without facts, and with the question for them alone, by a prompt or our own."""
    return dataclasses.replace(record, facts=(), questions=(Question(chat.facts_question(prompt), ()),))


class Dialogue:
    """A conversation about each image of a batch; every turn goes on from the keys and values of those before.

    What the model has said stands in the conversation token for token, up to the one that closed it; an answer that
    reached `max_new_tokens` is closed there.

        dialogue = Dialogue(responder, chat, batch)           one question a row, say whether there is a defect
        [chat.decode(ids) for ids in dialogue.answers.token_ids[:, 0]]
        dialogue.ask("Where is it?")                          one text a row

    Attributes:
      answers: To the batch's own question.
      said: Token ids of each row's last answer, the closing one included; what follows it has no meaning.
    """

    def __init__(
        self,
        responder: Responder,
        chat: Chat,
        batch: TreeBatch,
        *,
        facts_as: FactsAs = "fusion",
        seeds: Int[np.ndarray, " B"] | None = None,
        begun: Begun | None = None,
        prefix: ImagePrefix | None = None,
    ) -> None:
        """Asks the batch's own question.

        Args:
          responder: The model.
          chat: Template and tokenizer, as the batch was made with.
          batch: Images with one question each, without answers (`make_eval_batches`, answers `none`).
          facts_as: As the batch was made with.
          seeds: Of each row's draws, see `Responder.answer`.
          begun: Token ids that the first answers begin with, likewise.
          prefix: Of the same images in the same order, which are then not read again (`Responder.encode_prefix`).

        Raises:
          TreeError: The batch has more than one question a row.
        """
        if batch.question_ids.shape[1] != 1:
            raise TreeError(f"a conversation is about one question a row, the batch has {batch.question_ids.shape[1]}")
        self._responder, self._chat, self._seeds = responder, chat, seeds
        self._facts_as: FactsAs = facts_as
        self._real = (np.asarray(batch.record_index) >= 0) & (np.asarray(batch.question_ids)[:, 0] >= 0)
        if prefix is None:
            self.answers, self._state = responder.first_turn(batch, seeds, begun)
        else:
            self.answers, self._state = responder.answer_from(prefix, batch, seeds, begun)
        self.said = np.asarray(self.answers.token_ids)[:, 0]

    def ask(self, question: str) -> list[str]:
        """Each row's answer to a further question; "" for padding rows.

        Raises:
          TreeError: The conversation grows longer than the largest bucket, where the config has buckets.
        """
        asked = self._chat.follow_up_ids(question, facts_as=self._facts_as).tolist()
        rows = list(zip(self.said, self._real, strict=True))
        spoken = [[*self._unwritten(said), *asked] if real else [] for said, real in rows]
        size = compiled_size(max(map(len, spoken)))
        ids = np.full((len(spoken), 1, size), self._chat.pad_id, np.int32)
        mask = np.zeros(ids.shape, np.bool_)
        for row, tokens in enumerate(spoken):
            ids[row, 0, : len(tokens)], mask[row, 0, : len(tokens)] = tokens, True
        answered, self._state = self._responder.next_turn(
            self._state, ids, mask, slots=self._slots(size), seeds=self._seeds
        )
        self.said = answered[:, 0]
        return [self._chat.decode(said) if real else "" for said, real in zip(self.said, self._real, strict=True)]

    def _slots(self, size: int) -> int:
        """Slots of the cache for a turn: a bucket for what is said, and an answer; never fewer than there are."""
        room = self._responder.decoding.max_new_tokens
        needed, text = int(self._state.length) + size, self._chat.text
        bucket = bucket_for(needed, text)
        if bucket is None:
            raise TreeError(
                f"a conversation has {needed} tokens with its next question: add a bucket of {needed} or more to "
                f"text.buckets (now {text.buckets}), empty it, or ask less"
            )
        return max(bucket + room, self._state.visible.shape[-1])

    def _unwritten(self, said: Int[np.ndarray, " L"]) -> list[int]:
        """The last token of an answer that was cut: the model has not read it yet."""
        return [] if self._responder.decoding.closes(said).any() else [int(said[-1])]
