"""The Grain stream: records in seeded order, assembled into tree batches."""

from __future__ import annotations

import collections
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import grain
import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig, TrainConfig
from sage_jax.data.chat import Chat, FactsAs
from sage_jax.data.encode import (
    AnswersKept,
    Counted,
    QuestionKind,
    RecordPixels,
    RecordTokens,
    count_image_tokens,
    count_records,
    count_reference_tokens,
    decode_pixels,
    encode_text,
)
from sage_jax.data.records import Record
from sage_jax.data.tree import TreeRow, build_tree, choose_shape, stack_rows

CACHE_BYTES: Final = 512 * 2**20
"""Memory for decoded tiles and token ids, all workers of a process together."""

_STATE_VERSION = 1


class StreamError(ValueError):
    """A stream that cannot be built or resumed; the message names the way out."""


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


class _RecentlyUsed:
    """Values by key, the least recently used dropped when they take more than `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._items: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_RecentlyUsed], tuple[int]]:
        return _RecentlyUsed, (self._capacity,)  # a worker process fills its own

    def get(self, key: Any, make: Callable[[], Item]) -> Item:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        made = make()  # outside the lock: threads decode side by side
        with self._lock:
            if key not in self._items:
                self._items[key] = made
                self._size += made.nbytes
            while self._size > self._capacity:
                self._size -= self._items.popitem(last=False)[1].nbytes
        return made


class _RecordParts:
    """Token ids and tiles of records by index, remembered between epochs."""

    def __init__(
        self,
        records: Sequence[Record],
        *,
        chat: Chat,
        model: ModelConfig,
        text: TextConfig,
        answers: AnswersKept,
        questions: QuestionKind,
        facts_as: FactsAs,
        cache_bytes: int,
    ) -> None:
        self.records, self.chat, self.model, self.text = records, chat, model, text
        self._answers: AnswersKept = answers
        self._questions: QuestionKind = questions
        self._facts_as: FactsAs = facts_as
        self._tokens = _RecentlyUsed(cache_bytes // 4)
        self._pixels = _RecentlyUsed(cache_bytes - cache_bytes // 4)

    def tokens(self, index: int, with_reference: bool) -> RecordTokens:
        in_prompt = with_reference and self.text.reference == "prompt"
        return self._tokens.get((index, in_prompt), lambda: self._encode(self.records[index], in_prompt))

    def pixels(self, index: int) -> RecordPixels:
        return self._pixels.get(index, lambda: decode_pixels(self.records[index], model=self.model))

    def _encode(self, record: Record, reference_in_prompt: bool) -> RecordTokens:
        return encode_text(
            record,
            num_image_tokens=count_image_tokens(record, model=self.model),
            chat=self.chat,
            text=self.text,
            answers=self._answers,
            questions=self._questions,
            facts_as=self._facts_as,
            num_reference_tokens=count_reference_tokens(record, model=self.model) if reference_in_prompt else 0,
        )


class _TrainAssembler:
    """Makes this process's rows of a global batch; every choice is drawn for all rows, so that processes agree."""

    def __init__(
        self, parts: _RecordParts, train: TrainConfig, num_questions: int, num_answers: int, rows: slice
    ) -> None:
        self._parts, self._train, self._rows = parts, train, rows
        self._num_questions, self._num_answers = num_questions, num_answers

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> TreeBatch:
        parts = self._parts
        with_reference = _draw_modes(len(indices), rng, self._train)
        tokens = [parts.tokens(int(index), bool(shown)) for index, shown in zip(indices, with_reference, strict=True)]
        chosen = [self._draw_questions(len(one.questions), rng) for one in tokens]
        shape = choose_shape(tokens, chosen, parts.text)
        rows = [
            TreeRow(tokens[i], parts.pixels(int(indices[i])), chosen[i], bool(with_reference[i]), int(indices[i]))
            for i in range(len(indices))[self._rows]
        ]
        return stack_rows(
            rows,
            shape=shape,
            num_questions=self._num_questions,
            num_answers=self._num_answers,
            chat=parts.chat,
            model=parts.model,
            text=parts.text,
        )

    def _draw_questions(self, available: int, rng: np.random.Generator) -> tuple[int, ...]:
        wanted = self._train.questions_per_image
        if not 0 < wanted < available:
            return tuple(range(available))
        return tuple(sorted(rng.permutation(available)[:wanted].tolist()))


class TrainLoader(Iterator[TreeBatch]):
    """Endless tree batches of this process's rows, resumable at any batch.

    The state is the number of the next batch: batches depend on seed and number alone, so that a run may resume with
    other worker or process counts.
    """

    def __init__(
        self, batches: grain.MapDataset, *, num_workers: int, prefetch: int, identity: dict[str, int | str]
    ) -> None:
        self._batches, self._num_workers, self._prefetch = batches, num_workers, prefetch
        self._identity = identity
        self._next_batch = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> TreeBatch:
        if self._iterator is None:
            self._iterator = iter(self._read_from(self._next_batch))
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, ready for JSON."""
        return {**self._identity, "next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was taken.

        Raises:
          StreamError: The state is that of another stream; the message names what differs.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise StreamError(
                    f"the saved stream has {name} = {state.get(name)}, this one {value}: resume with the same"
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


def make_train_loader(
    records: Sequence[Record],
    *,
    chat: Chat,
    model: ModelConfig,
    text: TextConfig,
    train: TrainConfig,
    seed: int,
    num_workers: int,
    prefetch: int,
    process_index: int = 0,
    process_count: int = 1,
    revision: str = "",
) -> TrainLoader:
    """The training stream of one process.

    Records come in a new seeded order each epoch. The batches of all processes, put together in process order, are the
    same whatever the number of processes and workers.

    Args:
      records: The data set; random access.
      chat: Template and tokenizer.
      model: Sizes of tiles and image tokens.
      text: Shapes of the tree.
      train: Batch size, questions, answers and reference dropout of the stage.
      seed: Of order and draws.
      num_workers: Worker processes; 0 = threads.
      prefetch: Batches kept ready; 0 = none.
      process_index: This process.
      process_count: Processes that share the global batch.
      revision: Of the data set; a state of another one is refused.

    Raises:
      StreamError: There are no records, or the batch size does not divide among processes.
    """
    _require_records(records)
    if train.batch_size % process_count:
        raise StreamError(
            f"batch_size = {train.batch_size} does not divide among {process_count} processes: give a multiple"
        )
    share = train.batch_size // process_count
    available, num_answers = _slots(records, train.questions, train.answers)
    num_questions = min(train.questions_per_image, available) if train.questions_per_image else available
    parts = _RecordParts(
        records,
        chat=chat,
        model=model,
        text=text,
        answers=train.answers,
        questions=train.questions,
        facts_as=train.facts,
        cache_bytes=CACHE_BYTES // max(1, num_workers),
    )
    rows = slice(process_index * share, (process_index + 1) * share)
    assemble = _TrainAssembler(parts, train, num_questions, num_answers, rows)
    batches = _order(len(records), seed).batch(train.batch_size).random_map(assemble)
    identity = {
        "version": _STATE_VERSION,
        "seed": seed,
        "num_records": len(records),
        "batch_size": train.batch_size,
        "revision": revision,
    }
    return TrainLoader(batches, num_workers=num_workers, prefetch=prefetch, identity=identity)


def visited_records(num_records: int, *, train: TrainConfig, seed: int) -> tuple[list[int], list[int]]:
    """The records that a stage's training stream takes without (0) and with (1) their reference, each once, ascending.

    Of a record that has no reference image both are the same; the stream's draw does not know which those are.
    """

    def draw(indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return indices, _draw_modes(len(indices), rng, train)

    visited: tuple[set[int], set[int]] = (set(), set())
    draws = _order(num_records, seed).batch(train.batch_size).random_map(draw)
    for step in range(train.steps):
        batch = draws[step]
        assert batch is not None  # Grain's type allows for filters; there is none
        for index, with_reference in zip(*batch, strict=True):
            visited[int(with_reference)].add(int(index))
    return sorted(visited[0]), sorted(visited[1])


def _draw_modes(num_rows: int, rng: np.random.Generator, train: TrainConfig) -> np.ndarray:
    """Which rows keep their reference: the first draw of each batch, so that it can be told without making it."""
    return rng.random(num_rows) >= train.reference_drop_rate


def make_eval_batches(
    records: Sequence[Record],
    *,
    chat: Chat,
    model: ModelConfig,
    text: TextConfig,
    batch_size: int,
    with_reference: bool,
    answers: AnswersKept,
    questions: QuestionKind = "inspection",
    facts_as: FactsAs = "fusion",
) -> Iterator[TreeBatch]:
    """All records once, in order, all their questions; the last batch is filled with rows of record index -1.

    Args:
      records: The data set; random access.
      chat: Template and tokenizer.
      model: Sizes of tiles and image tokens.
      text: Shapes of the tree.
      batch_size: Rows of a batch.
      with_reference: One-shot; False = zero-shot.
      answers: `best`, `ranked`, or `none`: prompts only, for generation.
      questions: The records' questions, or their descriptions.
      facts_as: Comparison embeddings, or plain text in the prompt.

    Raises:
      StreamError: There are no records.
    """
    _require_records(records)
    num_questions, num_answers = _slots(records, questions, answers)

    def assemble(number: int) -> TreeBatch:
        indices = range(number * batch_size, min((number + 1) * batch_size, len(records)))
        rows = [
            build_tree(
                records[index],
                chat=chat,
                model=model,
                text=text,
                with_reference=with_reference,
                answers=answers,
                questions=questions,
                facts_as=facts_as,
                record_index=index,
            )
            for index in indices
        ]
        shape = choose_shape([row.tokens for row in rows], [row.question_ids for row in rows], text)
        return stack_rows(
            [*rows, *[None] * (batch_size - len(rows))],
            shape=shape,
            num_questions=num_questions,
            num_answers=num_answers,
            chat=chat,
            model=model,
            text=text,
        )

    num_batches = -(-len(records) // batch_size)
    return iter(grain.MapDataset.range(num_batches).map(assemble).to_iter_dataset(_read_options(2)))


def _order(num_records: int, seed: int) -> grain.MapDataset:
    """Record numbers in a new seeded order each epoch, without end."""
    return grain.MapDataset.range(num_records).seed(seed).shuffle().repeat()


def _require_records(records: Sequence[Record]) -> None:
    if not len(records):
        raise StreamError("there are no records in this split: check data.root, or raise data.num_train and num_test")


def _slots(records: Sequence[Record], questions: QuestionKind, answers: AnswersKept) -> tuple[int, int]:
    counts = records.counts if isinstance(records, Counted) else count_records(records)
    asked = counts.questions if questions == "inspection" else counts.descriptions
    ranked = counts.answers if questions == "inspection" else counts.description_answers
    return max(asked, 1), max(ranked, 1) if answers == "ranked" else 1


def _read_options(prefetch: int) -> grain.ReadOptions:
    # One thread more than cores helps nothing here: assembly holds the interpreter lock.
    return grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
