"""The rows of training batches: their draws, their groups of about one length, and their layout."""

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
from sage_jax.data.records import Record
from sage_jax.data.stream.record_parts import RecordParts
from sage_jax.data.trees.encode import Counted, RecordTokens, TreeUse, count_records
from sage_jax.data.trees.shapes import BatchSize, TreeShape, choose_shape, enclosing, needed_shape, tree_length
from sage_jax.data.trees.tree import Capacity, TreeRow, stack_rows


def capacity_of(records: Sequence[Record], use: TreeUse, *, with_reference: bool) -> Capacity:
    """The capacity that any record of a data set needs."""
    counts = records.counts if isinstance(records, Counted) else count_records(records)
    asked = counts.questions if use.questions == "inspection" else counts.descriptions
    ranked = counts.answers if use.questions == "inspection" else counts.description_answers
    ranks = max(ranked, 1) if use.answers == "ranked" else 1
    questions = min(use.questions_per_image or asked, asked)
    return Capacity(max(questions, 1), ranks, counts.references if with_reference else 0)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The rows of a global batch before they are laid out: what was drawn for each.

    Attributes:
      indices: Records.
      with_reference: Whether the row shows the record's reference.
      questions: Which of the record's questions it asks.
      tokens: The record's text.
    """

    indices: Int[np.ndarray, " B"]
    with_reference: Bool[np.ndarray, " B"]
    questions: tuple[tuple[int, ...], ...]
    tokens: tuple[RecordTokens, ...]

    @property
    def lengths(self) -> Int[np.ndarray, " B"]:
        """Tokens of each tree."""
        return np.asarray([tree_length(one, asked) for one, asked in zip(self.tokens, self.questions, strict=True)])

    def rows(self, chosen: Int[np.ndarray, " C"]) -> Drawn:
        """Some of the rows, in the order given."""
        asked, tokens = (tuple(each[row] for row in chosen) for each in (self.questions, self.tokens))
        return Drawn(self.indices[chosen], self.with_reference[chosen], asked, tokens)

    def size(self) -> BatchSize:
        """What the trees of the batch need, and its real tokens: placeholders of missing facts are none."""
        needed = [needed_shape(one, asked) for one, asked in zip(self.tokens, self.questions, strict=True)]
        hidden = sum(int(np.count_nonzero(~one.prefix_mask)) for one in self.tokens)
        return BatchSize(enclosing(needed), len(needed), sum(one.length for one in needed) - hidden)


class TrainAssembler:
    """Makes this process's rows of a global batch; every choice is drawn for all rows, so that processes agree."""

    def __init__(self, parts: RecordParts, train: TrainConfig, capacity: Capacity, rows: slice) -> None:
        self._parts, self._train, self._capacity, self._rows = parts, train, capacity, rows

    def draw(self, indices: np.ndarray, rng: np.random.Generator) -> Drawn:
        """What each of these records shows."""
        with_reference = draw_modes(len(indices), rng, self._train)
        tokens = self._tokens(indices, with_reference)
        chosen = tuple(self._draw_questions(len(one.questions), rng) for one in tokens)
        return Drawn(indices, with_reference, chosen, tokens)

    def build(self, drawn: Drawn, shapes: Sequence[TreeShape] = ()) -> TreeBatch:
        """This process's rows of the batch, padded to the first of the shapes that holds it; none = by the config."""
        parts = self._parts
        rows = [
            TreeRow(
                drawn.tokens[row],
                parts.pixels(int(drawn.indices[row])),
                drawn.questions[row],
                bool(drawn.with_reference[row]),
                int(drawn.indices[row]),
            )
            for row in range(len(drawn.tokens))[self._rows]
        ]
        shape = choose_shape(drawn.tokens, drawn.questions, parts.form.text, shapes)
        tile_form = parts.features.form if parts.features else None
        return stack_rows(rows, parts.form, self._capacity, shape, tile_form=tile_form)

    def _tokens(self, indices: np.ndarray, with_reference: np.ndarray) -> tuple[RecordTokens, ...]:
        rows = zip(indices, with_reference, strict=True)
        return tuple(self._parts.tokens(int(index), bool(shown)) for index, shown in rows)

    def _draw_questions(self, available: int, rng: np.random.Generator) -> tuple[int, ...]:
        wanted = self._train.questions_per_image
        if not 0 < wanted < available:
            return tuple(range(available))
        return tuple(sorted(rng.permutation(available)[:wanted].tolist()))


class GroupDraws:
    """Draws groups of batches: the rows of a group are sorted by length and cut into batches, in a random order.

    Args:
      num_batches: Batches of a group; 1 = they are left as they are drawn.
    """

    def __init__(self, assemble: TrainAssembler, num_batches: int) -> None:
        self._assemble, self._num_batches = assemble, num_batches

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> list[Drawn]:
        drawn = self._assemble.draw(indices, rng)
        if self._num_batches == 1:
            return [drawn]
        batches = np.argsort(drawn.lengths, kind="stable").reshape(self._num_batches, -1)
        return [drawn.rows(rows) for rows in batches[rng.permutation(self._num_batches)]]


class LengthGroups:
    """Batches of trees of about one length, by number.

    Args:
      groups: Groups as `GroupDraws` draws them.
      num_batches: Batches of a group.
      shapes: What batches are padded to, the shortest first; none = by the config.
    """

    def __init__(
        self, groups: grain.MapDataset, num_batches: int, assemble: TrainAssembler, shapes: Sequence[TreeShape]
    ) -> None:
        self._groups, self._num_batches, self._assemble, self._shapes = groups, num_batches, assemble, shapes
        self._drawn: dict[int, list[Drawn]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_drawn": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, number: int) -> TreeBatch:
        group, position = divmod(int(number), self._num_batches)
        with self._lock:  # threads that make batches of one group wait for the one that draws it
            if group not in self._drawn:
                drawn = self._groups[group]
                assert drawn is not None  # Grain's type allows for filters; there is none
                # Two are kept: while one thread makes the last batch of a group, another begins the next group.
                self._drawn = {**dict(list(self._drawn.items())[-1:]), group: drawn}
            chosen = self._drawn[group][position]
        return self._assemble.build(chosen, self._shapes)


def draw_modes(num_rows: int, rng: np.random.Generator, train: TrainConfig) -> np.ndarray:
    """Which rows keep their reference: the first draw of each batch, so that it can be told without making it."""
    return rng.random(num_rows) >= train.reference_drop_rate
