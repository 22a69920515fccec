"""The rows of training batches: what is drawn for each, how they are grouped by length, and how they are laid out."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from sage_jax.axes import Bool, Int
from sage_jax.batch import TreeBatch
from sage_jax.config import TrainConfig
from sage_jax.data.encode import AnswersKept, Counted, QuestionKind, RecordTokens, count_records
from sage_jax.data.record_parts import RecordParts
from sage_jax.data.records import Record
from sage_jax.data.tree import TreeRow, choose_shape, stack_rows, tree_length


@dataclasses.dataclass(frozen=True)
class Slots:
    """Room of a batch: questions of an image, answers of a question, and whether there is any for references."""

    questions: int
    answers: int
    references: bool


def slots_of(
    records: Sequence[Record], questions: QuestionKind, answers: AnswersKept, *, with_reference: bool
) -> Slots:
    """The room that any record of a data set needs: the same for all batches, so that they have one shape."""
    counts = records.counts if isinstance(records, Counted) else count_records(records)
    asked = counts.questions if questions == "inspection" else counts.descriptions
    ranked = counts.answers if questions == "inspection" else counts.description_answers
    ranks = max(ranked, 1) if answers == "ranked" else 1
    return Slots(max(asked, 1), ranks, with_reference and counts.references > 0)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The rows of a global batch before they are laid out: what was drawn for each.

    Attributes:
      indices: Records.
      with_reference: Whether the row shows the record's reference.
      questions: Which of the record's questions it asks.
      lengths: Tokens of its tree.
    """

    indices: Int[np.ndarray, " B"]
    with_reference: Bool[np.ndarray, " B"]
    questions: tuple[tuple[int, ...], ...]
    lengths: Int[np.ndarray, " B"]

    def rows(self, chosen: Int[np.ndarray, " C"]) -> Drawn:
        """Some of the rows, in the order given."""
        asked = tuple(self.questions[row] for row in chosen)
        return Drawn(self.indices[chosen], self.with_reference[chosen], asked, self.lengths[chosen])


class TrainAssembler:
    """Makes this process's rows of a global batch; every choice is drawn for all rows, so that processes agree."""

    def __init__(self, parts: RecordParts, train: TrainConfig, slots: Slots, rows: slice) -> None:
        self._parts, self._train, self._slots, self._rows = parts, train, slots, rows

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> TreeBatch:
        return self.build(self.draw(indices, rng))

    def draw(self, indices: np.ndarray, rng: np.random.Generator) -> Drawn:
        """What each of these records shows."""
        with_reference = draw_modes(len(indices), rng, self._train)
        tokens = self._tokens(indices, with_reference)
        chosen = tuple(self._draw_questions(len(one.questions), rng) for one in tokens)
        lengths = [tree_length(one, asked) for one, asked in zip(tokens, chosen, strict=True)]
        return Drawn(indices, with_reference, chosen, np.asarray(lengths))

    def build(self, drawn: Drawn) -> TreeBatch:
        """This process's rows of the batch."""
        parts, tokens = self._parts, self._tokens(drawn.indices, drawn.with_reference)
        rows = [
            TreeRow(
                tokens[row],
                parts.pixels(int(drawn.indices[row])),
                drawn.questions[row],
                bool(drawn.with_reference[row]),
                int(drawn.indices[row]),
            )
            for row in range(len(tokens))[self._rows]
        ]
        return stack_rows(
            rows,
            shape=choose_shape(tokens, drawn.questions, parts.text),
            num_questions=self._slots.questions,
            num_answers=self._slots.answers,
            chat=parts.chat,
            model=parts.model,
            text=parts.text,
            has_references=self._slots.references,
            form=parts.features.form if parts.features else None,
        )

    def _tokens(self, indices: np.ndarray, with_reference: np.ndarray) -> list[RecordTokens]:
        return [
            self._parts.tokens(int(index), bool(shown)) for index, shown in zip(indices, with_reference, strict=True)
        ]

    def _draw_questions(self, available: int, rng: np.random.Generator) -> tuple[int, ...]:
        wanted = self._train.questions_per_image
        if not 0 < wanted < available:
            return tuple(range(available))
        return tuple(sorted(rng.permutation(available)[:wanted].tolist()))


class LengthGroups:
    """Batches of trees of about one length, by number: what `group_batches` batches show is drawn together, sorted by
    length, cut into batches again, and these are put in a random order.

    Args:
      groups: The records of each group.
      num_batches: Batches of a group.
    """

    def __init__(self, groups: grain.MapDataset, num_batches: int, assemble: TrainAssembler) -> None:
        self._assemble, self._num_batches = assemble, num_batches
        self._groups = groups.random_map(self._cut)
        self._drawn: dict[int, list[Drawn]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_drawn": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, number: int) -> TreeBatch:
        group, place = divmod(int(number), self._num_batches)
        with self._lock:  # threads that make batches of one group wait for the one that draws it
            if group not in self._drawn:
                drawn = self._groups[group]
                assert drawn is not None  # Grain's type allows for filters; there is none
                # Two are kept: while one thread makes the last batch of a group, another begins the next group.
                self._drawn = {**dict(list(self._drawn.items())[-1:]), group: drawn}
            chosen = self._drawn[group][place]
        return self._assemble.build(chosen)

    def _cut(self, indices: np.ndarray, rng: np.random.Generator) -> list[Drawn]:
        drawn = self._assemble.draw(indices, rng)
        batches = np.argsort(drawn.lengths, kind="stable").reshape(self._num_batches, -1)
        return [drawn.rows(rows) for rows in batches[rng.permutation(self._num_batches)]]


def draw_modes(num_rows: int, rng: np.random.Generator, train: TrainConfig) -> np.ndarray:
    """Which rows keep their reference: the first draw of each batch, so that it can be told without making it."""
    return rng.random(num_rows) >= train.reference_drop_rate
