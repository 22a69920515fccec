"""The Grain stream: records in seeded order, assembled into tree batches."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grain
import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.config import TextConfig, TrainConfig
from sage_jax.data.records import Record
from sage_jax.data.stream.record_parts import RecordParts
from sage_jax.data.stream.train_rows import GroupDraws, LengthGroups, TrainAssembler, capacity_of, draw_modes
from sage_jax.data.stream.vit_features import StoredFeatures
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from sage_jax.data.trees.shapes import ChosenShapes, TreeShape, choose_shape, choose_shapes, enclosing, most_needed
from sage_jax.data.trees.tree import build_tree, stack_rows
from sage_jax.errors import UserError

CACHE_BYTES: Final = 512 * 2**20
"""Memory for decoded tiles and token ids, all workers of a process together."""

_STARTS_OF_WORKERS: Final = 3
"""How often worker processes are started for one batch."""
_KILLED: Final = "Worker process was terminated"
"""What Grain says of a worker that a signal ended."""

MEASURED_ROWS: Final = 2048
"""Rows of the stream, in whole groups of batches from its start, that shapes are chosen by."""

_STATE_VERSION = 1


class StreamError(UserError):
    """A stream that cannot be built or resumed; the message names the way out."""


class TrainLoader(Iterator[TreeBatch]):
    """Endless tree batches of this process's rows, resumable at any batch.

    The state is the number of the next batch: batches depend on seed and number alone, so that a run may resume with
    other worker or process counts. Shapes are no part of it: they alter padding alone.

    Attributes:
      shapes: What batches are padded to where that was chosen from the data.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        num_workers: int,
        prefetch: int,
        identity: dict[str, int | str],
        shapes: ChosenShapes | None = None,
    ) -> None:
        self.shapes = shapes
        self._batches, self._num_workers, self._prefetch = batches, num_workers, prefetch
        self._identity = identity
        self._next_batch = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> TreeBatch:
        for _ in range(_STARTS_OF_WORKERS):
            if self._iterator is None:
                self._iterator = iter(self._read_from(self._next_batch))
            try:
                batch = next(self._iterator)
            except RuntimeError as error:
                if _KILLED not in str(error):
                    raise
                self.close()  # a batch depends on its number alone: others read it again
                continue
            self._next_batch += 1
            return batch
        raise StreamError(
            f"data.num_workers = {self._num_workers}: worker processes were killed {_STARTS_OF_WORKERS} times while "
            "they read one batch, perhaps for want of memory: give fewer workers, or 0. The same command goes on"
        )

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, ready for JSON."""
        return {**self._identity, "next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was taken.

        Raises:
          StreamError: The state is that of another stream; the message names what differs.
        """
        saved = {"group_batches": 1, **state}  # positions of old do not say
        for name, value in self._identity.items():
            if saved.get(name) != value:
                raise StreamError(
                    f"the saved stream has {name} = {saved.get(name)}, this one {value}: resume with the same"
                    " data and config, or start the stage anew"
                )
        self.close()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Stops worker threads and processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _read_from(self, batch: int) -> grain.IterDataset:
        batches = self._batches[batch:]
        if self._num_workers == 0:
            return batches.to_iter_dataset(_read_options(self._prefetch))
        options = grain.MultiprocessingOptions(
            num_workers=self._num_workers, per_worker_buffer_size=max(1, self._prefetch // self._num_workers)
        )
        return batches.to_iter_dataset(_read_options(1)).mp_prefetch(options, worker_init_fn=_end_with_parent)


def _end_with_parent(worker: int, num_workers: int) -> None:
    """Lets a worker process end when the one that reads from it is killed; Grain's would wait for it for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """Order and speed of a training stream; none of them changes a batch but seed and `group_batches`.

    Attributes:
      seed: Of order and draws.
      num_workers: Worker processes; 0 = threads.
      prefetch: Batches kept ready; 0 = none.
      process_index: This process.
      process_count: Processes that share the global batch.
      revision: Of the data set; a state of another one is refused.
      group_batches: Batches whose rows are sorted by length together; 0 or 1 = none are.
    """

    seed: int
    num_workers: int = 0
    prefetch: int = 0
    process_index: int = 0
    process_count: int = 1
    revision: str = ""
    group_batches: int = 0

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a global batch.

        Raises:
          StreamError: The batch size does not divide among processes.
        """
        if batch_size % self.process_count:
            raise StreamError(
                f"batch_size = {batch_size} does not divide among {self.process_count} processes: give a multiple"
            )
        share = batch_size // self.process_count
        return slice(self.process_index * share, (self.process_index + 1) * share)

    def identity(self, num_records: int, batch_size: int) -> dict[str, int | str]:
        """The values that a saved position belongs to."""
        return {
            "version": _STATE_VERSION,
            "seed": self.seed,
            "num_records": num_records,
            "batch_size": batch_size,
            "revision": self.revision,
            "group_batches": max(self.group_batches, 1),
        }


def make_train_loader(
    records: Sequence[Record],
    form: TreeFormat,
    train: TrainConfig,
    options: StreamOptions,
    *,
    features: StoredFeatures | None = None,
    largest: TreeShape | None = None,
) -> TrainLoader:
    """The training stream of one process.

    Records come in a new seeded order each epoch. The batches of all processes, put together in process order, are the
    same whatever the number of processes and workers.

    Args:
      records: The data set; random access.
      form: The trees.
      train: Batch size, questions, answers and reference dropout of the stage.
      options: Order, workers and processes.
      features: ViT features of the records' images, in place of their pixels.
      largest: Shape that holds any tree of the stage, where it is known; without `text.buckets` the text of all records
        is read for it otherwise.

    Raises:
      StreamError: There are no records, or the batch size does not divide among processes.
    """
    _require_records(records)
    rows, together, use = options.rows(train.batch_size), max(options.group_batches, 1), TreeUse.of(train)
    cache_bytes = CACHE_BYTES // max(1, options.num_workers)
    parts = RecordParts(records, form, use, cache_bytes=cache_bytes, features=features)
    capacity = capacity_of(records, use, with_reference=train.reference_drop_rate < 1.0)
    assemble = TrainAssembler(parts, train, capacity, rows)
    order = _order(len(records), options.seed).batch(train.batch_size * together)
    groups = order.random_map(GroupDraws(assemble, together))
    shapes = None
    if not form.text.buckets:
        shapes = _chosen_shapes(groups, together, train, form.text, largest or _largest(parts))
    batches = LengthGroups(groups, together, assemble, shapes.shapes if shapes else ())
    return TrainLoader(
        grain.MapDataset.range(sys.maxsize).map(batches),
        num_workers=options.num_workers,
        prefetch=options.prefetch,
        identity=options.identity(len(records), train.batch_size),
        shapes=shapes,
    )


def _largest(parts: RecordParts) -> TreeShape:
    """Shape that holds any tree of a stage."""
    found = (parts.tokens(index, True) for index in range(len(parts.records)))
    return enclosing(most_needed(tokens, parts.use.questions_per_image) for tokens in found)


def _chosen_shapes(
    groups: grain.MapDataset, num_batches: int, train: TrainConfig, text: TextConfig, largest: TreeShape
) -> ChosenShapes:
    """Shapes for the first batches of a stream, as it will draw them: the same on all processes."""
    rows = train.batch_size * num_batches
    drawn = (groups[number] for number in range(min(-(-train.steps // num_batches), -(-MEASURED_ROWS // rows))))
    sizes = [batch.size() for group in drawn if group is not None for batch in group]
    return choose_shapes(sizes, largest, text.num_shapes)


def visited_records(
    num_records: int, *, train: TrainConfig, seed: int, group_batches: int = 0
) -> tuple[list[int], list[int]]:
    """The records that a stage's training stream takes without (0) and with (1) their reference, each once, ascending.

    Of a record that has no reference image both are the same; the stream's draw does not know which those are. Of a
    last group of batches that the stage does not come to the end of, all records count: which of them it takes depends
    on their lengths.
    """

    def draw(indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return indices, draw_modes(len(indices), rng, train)

    visited: tuple[set[int], set[int]] = (set(), set())
    draws = _order(num_records, seed).batch(train.batch_size * max(group_batches, 1)).random_map(draw)
    for number in range(-(-train.steps // max(group_batches, 1))):
        batch = draws[number]
        assert batch is not None  # Grain's type allows for filters; there is none
        for index, with_reference in zip(*batch, strict=True):
            visited[int(with_reference)].add(int(index))
    return sorted(visited[0]), sorted(visited[1])


def make_eval_batches(
    records: Sequence[Record], form: TreeFormat, use: TreeUse, *, batch_size: int, with_reference: bool
) -> Iterator[TreeBatch]:
    """All records once, in order, all their questions; the last batch is filled with rows of record index -1.

    Args:
      records: The data set; random access.
      form: The trees.
      use: The parts of the records in them.
      batch_size: Rows of a batch.
      with_reference: One-shot; False = zero-shot.

    Raises:
      StreamError: There are no records.
    """
    _require_records(records)
    capacity = capacity_of(records, use, with_reference=with_reference)

    def assemble(number: int) -> TreeBatch:
        indices = range(number * batch_size, min((number + 1) * batch_size, len(records)))
        rows = [
            build_tree(records[index], form, use, with_reference=with_reference, record_index=index)
            for index in indices
        ]
        shape = choose_shape([row.tokens for row in rows], [row.question_ids for row in rows], form.text)
        return stack_rows([*rows, *[None] * (batch_size - len(rows))], form, capacity, shape)

    num_batches = -(-len(records) // batch_size)
    if num_batches == 1:  # nothing to read ahead: a pool of threads takes longer to start than an image to answer
        return map(assemble, range(1))
    return iter(grain.MapDataset.range(num_batches).map(assemble).to_iter_dataset(_read_options(2)))


_MOST_RECORDS: Final = 2**48


def _order(num_records: int, seed: int) -> grain.MapDataset:
    """Record numbers in a new seeded order each epoch, for longer than anyone trains.

    Not for ever: Grain's own endless data sets cannot be cut where a batch has one record, since their length, one more
    than the largest index, is no index.
    """
    return grain.MapDataset.range(num_records).seed(seed).shuffle().repeat(_MOST_RECORDS // num_records + 1)


def _require_records(records: Sequence[Record]) -> None:
    if not len(records):
        raise StreamError("there are no records in this split: check data.root, or raise data.num_train and num_test")


def _read_options(prefetch: int) -> grain.ReadOptions:
    # One thread more than cores helps nothing here: assembly holds the interpreter lock.
    return grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
