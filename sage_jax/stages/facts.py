"""Stage `facts`: a model writes the facts about each image of the data set; and the same for images to inspect."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import jax

from sage_jax.config import TRAINING_STAGES, ConfigError
from sage_jax.data import store
from sage_jax.data.records import Record
from sage_jax.data.store import PreparedData
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.data.written_facts import image_key, with_facts
from sage_jax.endpoint.asking import Asker, RefusedReply
from sage_jax.endpoint.budget import BudgetUsedUp
from sage_jax.endpoint.replies import ReplyStore
from sage_jax.evaluation.fact_endpoint import EndpointFactWriter
from sage_jax.evaluation.fact_writer import FactWriter
from sage_jax.inspection.images import Images, InputImage
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import StopRequest, Watch
from sage_jax.stages.asked_endpoint import budget_of, open_endpoint
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Run, Stage, StageCost

_SHOWN: Final = 3
_CORRECTION: Final = "Write the sentences alone."


def write_facts(stage: Stage) -> StageCost:
    """Has `facts.stage` or the endpoint write the facts of all training and test images that have none; shows a few.

    Raises:
      ConfigError: That stage is not trained, or the endpoint left images without facts.
      UserError: The endpoint refuses, or is gone.
    """
    run, log, name = stage.run, stage.log, stage.config.facts.stage
    if not stage.config.facts.base_url:
        if name not in run.trained:
            raise run.trained.missing(name, wanted_by=stage.name)
        log_changes(stage, name)
    book, data = run.facts.book, _data_sets(run)
    if book.num_damaged:
        log.line(f"{book.num_damaged} lines of {book.path} are damaged: the facts of their images are written again")
    if all(book.is_complete(each.revision) for each in data):
        log.line(f"written before: {book.path}")
        return StageCost(worked=False)
    known, images = len(book), _distinct_images(stage, data)
    lacking = {key: record_set for key, record_set in images.items() if not key <= book.facts.keys()}
    writer = _writer(run) if lacking else None
    try:
        with StopRequest(log.line, run.mesh, after="this batch; facts that are written stay") as stop:
            watch = Watch("facts were written; those that are written stay", log.progress, stop)
            if writer is not None:
                for records in lacking.values():
                    writer.write_all(records, book, watch)
    except Interrupted as stopped:
        return StageCost(resumed=known > 0, interrupted=str(stopped))
    except BudgetUsedUp as error:
        why = f"stage facts stopped at {len(book) - known} new images: {error}. A further start of it goes on there"
        return StageCost(resumed=known > 0, interrupted=why)
    for each in data:
        book.complete(each.revision, keep=jax.process_index() == 0)
    for record in [record for records in images.values() for record in records[:_SHOWN]][:_SHOWN]:
        log.line(f"{record.test_path}: {' '.join(book.of(record.test_image) or ('(none)',))}")
    log.line(f"facts of {len(book) - known} images written, {known} known before: {book.path}")
    return StageCost(resumed=known > 0, counts={"images": len(book) - known})


def _writer(run: Run) -> FactWriter | EndpointFactWriter:
    """The model that writes facts, or the endpoint.

    Raises:
      ConfigError: Its stage is not trained; or several processes would ask the endpoint.
      UserError: The endpoint's key is not set.
    """
    config = run.config.facts
    if config.base_url:
        if jax.process_count() > 1:
            raise ConfigError(
                "facts.base_url: an endpoint is asked by one process: run --config.stages=facts in one; the "
                "others find its facts in data.cache_dir"
            )
        endpoint = open_endpoint(config, "facts", budget_of(config, "facts"))
        replies = ReplyStore(run.facts.book.path.with_name("replies.jsonl"))
        sentences = functools.partial(_sentences, run.chat)
        asker = Asker(endpoint, replies, sentences, correction=_CORRECTION, asks=config.asks)
        return EndpointFactWriter(asker, run.chat, config)
    name = config.stage
    return FactWriter(run.evaluator(name, run.weights.answering(name, wanted_by="facts"), use_up=True))


def _data_sets(run: Run) -> list[PreparedData]:
    """The run's data set, and those of training stages that have one of their own and read written facts."""
    names = [name for name in TRAINING_STAGES if run.reads_written_facts(name)]
    found = {each.revision: each for each in (run.prepared, *map(run.prepared_for, names))}
    return [*found.values()]


def _sentences(chat: Chat, text: str) -> tuple[str, ...]:
    """The fact sentences of a reply.

    Raises:
      RefusedReply: It has none.
    """
    found = chat.facts_in(text)
    if not found:
        raise RefusedReply("the reply has no sentence")
    return found


def _distinct_images(stage: Stage, data: Sequence[PreparedData]) -> dict[frozenset[str], Sequence[Record]]:
    """A record of each image of some data sets, by the images' keys: a group for each split of them."""
    found: dict[frozenset[str], Sequence[Record]] = {}
    seen: set[str] = set()
    for prepared, split in itertools.product(data, store.SPLITS):
        first: dict[str, int] = {}
        records = store.open_split(prepared, split) if _has(prepared, split) else []
        with stage.log.progress(len(records), unit=f"{split} record read") as advance:
            for index, record in enumerate(records):
                first.setdefault(image_key(record.test_image), index)
                advance(index + 1)
        new = {key: index for key, index in first.items() if key not in seen}
        if new:
            found[frozenset(new)] = ChosenRecords(records, [*new.values()])
        seen.update(new)
    return found


def _has(prepared: PreparedData, split: store.Split) -> bool:
    return bool(prepared.num_train if split == "train" else prepared.num_test)


class FactTeller:
    """Facts for images to inspect, under `data.facts` = `model`: those of the book, and new ones that the model writes.

    The model that writes is loaded when it is first needed, beside the one that answers.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._facts = run, run.facts
        self._writer: FactWriter | EndpointFactWriter | None = None
        self._lock = threading.Lock()

    @property
    def facts(self) -> Mapping[str, tuple[str, ...]]:
        """Sentences by the key of their image."""
        return self._facts.book.facts

    def told(self, inputs: Sequence[InputImage], rows: int) -> list[InputImage]:
        """The inputs with their facts; those of images that have none are written first, as a batch of so many rows."""
        self.write([image.record for image in inputs if image.record is not None], rows)
        return [_told(image, self.facts) for image in inputs]

    def write(self, records: Sequence[Record], rows: int) -> None:
        """Adds the facts of those images that have none, as a batch of so many rows."""
        with self._lock:  # two batches may hold one image, whose facts are written once
            if any(self._facts.book.of(record.test_image) is None for record in records):
                self._writer = self._writer or _writer(self._run)
                self._writer.write(records, self._facts.book, rows)


class ImagesWithFacts:
    """Images to inspect with the facts that a model wrote about them."""

    def __init__(self, images: Images, facts: Mapping[str, tuple[str, ...]]) -> None:
        self._images, self._facts = images, facts

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return self._images.key(index)

    def stamp(self, index: int) -> str:
        return self._images.stamp(index)

    def read(self, index: int) -> InputImage:
        return _told(self._images.read(index), self._facts)


def told_images(stage: Stage, images: Images) -> Images:
    """The images with the facts that `data.facts` says; those that a model is to write are written first.

    Raises:
      ConfigError: The model that writes them is not trained.
      Interrupted: A signal has come; the facts that are written stay.
    """
    if stage.config.data.facts != "model" or stage.config.inspect.facts == "model":
        return images
    return ImagesWithFacts(images, written_facts(stage, len(images), lambda index: images.read(index).record))


def written_facts(stage: Stage, number: int, read: Callable[[int], Record | None]) -> Mapping[str, tuple[str, ...]]:
    """Facts by the key of their image, `data.facts` being `model`; those of images that have none are written first.

    Args:
      number: Images.
      read: The record of an image by its number; None where it cannot be read.

    Raises:
      ConfigError: The model that writes them is not trained.
      Interrupted: A signal has come; the facts that are written stay.
    """
    run, log = stage.run, stage.log
    teller, rows = FactTeller(run), min(stage.config.evaluate.rows, number)
    with StopRequest(log.line, run.mesh, after="this batch; facts that are written stay") as stop:
        watch = Watch("facts were written; those that are written stay", log.progress, stop)
        with watch.progress(number, unit="image's facts") as advance:
            for start in range(0, number, rows):
                chunk = range(start, min(start + rows, number))
                teller.write([record for index in chunk if (record := read(index)) is not None], rows)
                advance(chunk.stop)
    return teller.facts


def _told(image: InputImage, facts: Mapping[str, tuple[str, ...]]) -> InputImage:
    return image if image.record is None else dataclasses.replace(image, record=with_facts(image.record, facts))
