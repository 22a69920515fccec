"""Answers about many images: the next ones are taken in wherever rows have become free, not when a whole batch ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from sage_jax.axes import Int
from sage_jax.batch import Answers, AnyArray, Scores, TreeBatch
from sage_jax.generation.continuous_decode import RowStates


class RowDecoder(Protocol):
    """A model that decodes rows that are at different tokens (`generate.Responder`)."""

    def prefill_rows(self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None) -> tuple[Scores, Any]:
        """Scores, and the images with the first token of each answer, to be put into rows; both on the devices."""
        ...

    def rows_that_fit(self, group: Any, most: int) -> int:
        """So many rows, or as many as there is memory for, but no fewer than a group has."""
        ...

    def put_rows(self, rows: Any | None, group: Any, into: Int[np.ndarray, " C"], *, num_rows: int) -> Any:
        """The rows with a group's images in these of them; None = so many free ones. A row `num_rows` leaves out."""
        ...

    def decode_rows(self, rows: Any, *, wanted: int) -> tuple[Any, RowStates]:
        """The rows decoded until so many are free; and how far they are, in host memory."""
        ...


@dataclasses.dataclass(frozen=True)
class _Group:
    """Images that were prefilled together: rows of the batch that have one, indices in the data set, scores."""

    positions: list[int]
    record_index: AnyArray  # G
    scores: Scores


class ContinuousBatching:
    """Answers image by image, in order, as `Responder.answer` gives them, from rows that never wait for each other.

    Images come in groups that are prefilled together, the next one while the devices decode. As many rows as a group
    has images become free, then it takes their places. Groups are padded to the longest so far, so that prefill,
    placing and decoding compile once for each length that there is no shorter one of before.

        stream = ContinuousBatching(responder, num_rows=64)
        for index, answers in stream.answers((batch, seeds) for batch in groups):

    Args:
      decoder: The model.
      num_rows: Images decoded at once, a number that the mesh divides.
      by_memory: Whether fewer are where the memory does not hold so many.

    Attributes:
      steps: Decoding steps so far, each a token of every row.
    """

    def __init__(self, decoder: RowDecoder, *, num_rows: int, by_memory: bool = False) -> None:
        self._decoder, self._num_rows, self._by_memory = decoder, num_rows, by_memory
        self._rows: Any = None
        self._longest = (0, 0, 0)
        self.steps = 0

    def answers(
        self, groups: Iterable[tuple[TreeBatch, Int[np.ndarray, " B"] | None]]
    ) -> Iterator[tuple[int, Answers]]:
        """Each image's index in the data set and its answers, the batch axis taken off; padding rows are left out.

        Args:
          groups: Batches of prompts, all of the same number of rows and at most `num_rows`, with the seeds of their
            draws, see `Responder.answer`.
        """
        arriving = iter(groups)
        held: dict[int, tuple[int, _Group, int]] = {}  # row -> number of its image, group, position in the group
        ended: dict[int, tuple[int, Answers]] = {}
        num_taken = num_given = 0
        group, fresh = self._next_group(arriving)
        if self._by_memory and group is not None and self._rows is None:
            self._num_rows = self._decoder.rows_that_fit(fresh, self._num_rows)
        while group is not None or held:
            while group is not None and self._num_rows - len(held) >= len(group.positions):
                free = [row for row in range(self._num_rows) if row not in held]
                into = np.full(len(group.record_index), self._num_rows, np.int32)
                for row, position in zip(free, group.positions, strict=False):
                    into[position] = row
                    held[row] = (num_taken, group, position)
                    num_taken += 1
                self._rows = self._decoder.put_rows(self._rows, fresh, into, num_rows=self._num_rows)
                del fresh  # or two groups would be in memory while the next one is prefilled
                group, fresh = self._next_group(arriving)
            wanted = self._num_rows if group is None else len(group.positions)
            self._rows, states = self._decoder.decode_rows(self._rows, wanted=wanted)
            self.steps += int(states.steps)
            for row in [row for row in held if states.free[row]]:
                number, own, position = held.pop(row)
                # A copy: a view would keep the answers of all rows in memory.
                ended[number] = _answers_of(own, position, states.token_ids[row].copy())
            while num_given in ended:
                yield ended.pop(num_given)
                num_given += 1

    def _next_group(
        self, arriving: Iterator[tuple[TreeBatch, Int[np.ndarray, " B"] | None]]
    ) -> tuple[_Group | None, Any]:
        """The next group with an image in it, and its rows, prefilled."""
        for batch, seeds in arriving:
            positions = np.flatnonzero(np.asarray(batch.record_index) >= 0).tolist()
            if len(positions) > self._num_rows:
                raise ValueError(f"a group of {len(positions)} images for {self._num_rows} rows; give it fewer")
            if positions:
                scores, rows = self._decoder.prefill_rows(self._padded(batch), seeds)
                return _Group(positions, batch.record_index, scores), rows
        return None, None

    def _padded(self, batch: TreeBatch) -> TreeBatch:
        """The batch in the longest shape so far."""
        shape = batch.token_ids.shape[1], batch.prefix_slots, batch.question_slots
        length, prefix, question = self._longest = tuple(map(max, shape, self._longest))
        more = ((0, 0), (0, length - shape[0]))
        filled = {"token_ids": 0, "token_mask": False, "position_ids": 0, "question_index": -1, "answer_index": -1}
        wider = {name: np.pad(getattr(batch, name), more, constant_values=value) for name, value in filled.items()}
        known = {"prefix_slots": prefix, "question_slots": question} if batch.prefix_slots else {}
        return dataclasses.replace(batch, **wider, **known)


def _answers_of(group: _Group, position: int, token_ids: Int[np.ndarray, "Q L"]) -> tuple[int, Answers]:
    scores = group.scores
    found = Answers(
        token_ids=token_ids,
        verdict_score=np.asarray(scores.verdict_score)[position],
        similarity=np.asarray(scores.similarity)[position],
    )
    return int(group.record_index[position]), found
