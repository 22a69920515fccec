"""Inspection of a user's images: verdict, score, reason, map; a JSONL, overlay pictures and one HTML report."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.batch import TreeBatch
from sage_jax.config import Config, ConfigError
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import feature_form, tiles_per_image
from sage_jax.evaluation.evaluator import Examination, anomaly_map
from sage_jax.features.cached import KeptFeatures
from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.images import Images, Subject
from sage_jax.inspection.page import write_page
from sage_jax.inspection.questions import Told, ask, asked_record
from sage_jax.inspection.report import InspectionRow, Totals, count_rows, overlay, picture, write_rows_jsonl
from sage_jax.journal.run_log import RunLog
from sage_jax.metrics.localisation import peak_boxes
from sage_jax.models.sage import compute_dtype
from sage_jax.process.files import replace_file
from sage_jax.process.stop_request import StopRequest

_TO_DO: Final = -1
_MOST_DRAWING: Final = 4
"""Overlays that are drawn at once."""
_REFERENCES_AT_ONCE: Final = 4
"""References that the ViT runs on together, where there may be several."""


@dataclasses.dataclass(frozen=True)
class Inspected:
    """How far an inspection came.

    Attributes:
      done: Images that have their row.
      totals: Counts over all rows; None where it was stopped, and on processes other than the first.
      resumed: Whether some rows are of an earlier run.
      counts: Images, tokens and seconds, for the summary.
    """

    done: int
    totals: Totals | None
    resumed: bool
    counts: dict[str, float]


def inspect(
    images: Images, examination: Examination, *, stage: str, output: Path, log: RunLog, mesh: Mesh
) -> Inspected:
    """Answers for every image; writes `inspection.jsonl`, `overlays/` and `report.html` under `output`.

    Finished rows are kept in `inspection.jsonl.partial` until all are done. An image whose row is found there, made by
    the same model and options from the same files, is not inspected again. Ctrl-C and SIGTERM stop after a batch.

    Raises:
      ConfigError: `output` cannot be written.
    """
    journal = RowJournal(_writable(output) / "inspection.jsonl.partial", _made_by(examination, output))
    places = _places(images, journal)
    missing = np.flatnonzero(places == _TO_DO)
    done = len(images) - len(missing)
    if done:
        log.line(f"{done} of {len(images)} images were done before the stop, {len(missing)} are left")
    rows = examination.rows(len(images))
    chunks = [missing[start : start + rows].tolist() for start in range(0, len(missing), rows)]
    references = _kept_references(examination)
    speed = _Speed()
    with (
        StopRequest(log.line, mesh, after="this batch") as stop,
        log.progress(len(images), done=done, unit="image") as advance,
        contextlib.closing(_read_ahead(images, chunks, examination, rows)) as read,
        _RowWriter(examination, output, journal, places) as writer,
    ):
        for chunk in read:
            told = _tell(chunk, examination, references)
            writer.put(chunk, told)
            done += len(chunk.indices)
            speed.batch_done(told)
            advance(done)
            if stop.agreed() and done < len(images):
                break
        writer.wait()
    found = Inspected(done, None, resumed=len(missing) < len(images), counts=speed.counts())
    if done < len(images) or jax.process_index() > 0:
        return found
    write_rows_jsonl(output / "inspection.jsonl", journal.rows(places))
    totals = count_rows(journal.rows(places))
    start = time.monotonic()
    model = f"{stage} of {examination.config.run_dir}"
    page = output / "report.html"
    write_page(page, images, journal, places, totals, model=model, config=examination.config.inspect, log=log)
    counts = found.counts | {"report_seconds": time.monotonic() - start}
    journal.remove()
    return dataclasses.replace(found, totals=totals, counts=counts)


def _writable(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write")
    except OSError as error:
        raise ConfigError(f"inspect.output: {output} cannot be written: {error.strerror or error}") from None
    return output


def _made_by(examination: Examination, output: Path) -> str:
    """Hash of all that decides a row beside its files."""
    config = examination.config.inspect
    return examination.digest(
        threshold=config.threshold,
        map_threshold=config.map_threshold,
        category=config.category,
        questions=config.questions,
        ask=config.ask,
        facts=config.facts,
        fact_tokens=config.fact_tokens,
        output=str(output),
    )


def _places(images: Images, journal: RowJournal) -> np.ndarray:
    """Where the journal has each image's row, from the files as they are now; the first process decides for all."""
    places = np.full(len(images), _TO_DO)
    if jax.process_index() == 0:
        entries = journal.find()
        for index in range(len(images)) if entries else ():
            entry = entries.get(images.key(index))
            if entry is not None and entry.stamp == images.stamp(index):
                places[index] = entry.offset
        known = np.flatnonzero(places != _TO_DO)
        for index, row in zip(known, journal.rows(places[known]), strict=False):
            if row.overlay_path and not Path(row.overlay_path).is_file():
                places[index] = _TO_DO
    if jax.process_count() > 1:
        done = multihost_utils.broadcast_one_to_all(places != _TO_DO)
        places = places if jax.process_index() == 0 else np.where(done, 0, _TO_DO)
    return places


class _Speed:
    """How long the batches of an inspection take, from its first image to its last row.

    Attributes:
      num_images, num_tokens: Images inspected, and tokens of the answers about them.
    """

    def __init__(self) -> None:
        self.num_images, self.num_tokens = 0, 0
        self._start = time.monotonic()
        self._first: float | None = None

    def batch_done(self, told: Sequence[Told | None]) -> None:
        """Counts a batch that has been answered; the first, which compiles, is timed by itself."""
        self.num_images += len(told)
        self.num_tokens += sum(each.num_tokens for each in told if each is not None)
        if self._first is None:
            self._first = time.monotonic() - self._start

    def counts(self) -> dict[str, float]:
        """Counts and seconds so far, for the summary."""
        seconds = time.monotonic() - self._start
        return {
            "images": self.num_images,
            "answer_tokens": self.num_tokens,
            "batch_seconds": seconds,
            "first_batch_seconds": self._first or 0.0,
        }


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Images that were read together.

    Attributes:
      indices, keys, stamps, subjects: Of each image.
      batches: Positions of the images that can be inspected, their records and their batch: one with references, one
        without, or either.
    """

    indices: Sequence[int]
    keys: Sequence[str]
    stamps: Sequence[str]
    subjects: Sequence[Subject]
    batches: Sequence[tuple[Sequence[int], Sequence[Record], TreeBatch]]


def _read_ahead(
    images: Images, chunks: Sequence[Sequence[int]], examination: Examination, rows: int
) -> Generator[_Chunk]:
    """The chunks in order, the next one read while the devices work on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-images") as pool:
        ahead: deque[Future[_Chunk]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_read, images, chunk, examination, rows))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _read(images: Images, indices: Sequence[int], examination: Examination, rows: int) -> _Chunk:
    keys = [images.key(index) for index in indices]
    stamps = [images.stamp(index) for index in indices]  # before the content: a change after it is seen next time
    subjects = [images.read(index) for index in indices]
    batches = []
    for one_shot in (True, False):
        chosen = [
            (position, asked_record(subject.record, examination))
            for position, subject in enumerate(subjects)
            if subject.record and (subject.record.reference_image is not None) is one_shot
        ]
        if chosen:
            positions, records = zip(*chosen, strict=True)
            (batch,) = examination.batches(records, with_reference=one_shot, answers="none", rows=rows)
            batches.append((positions, records, batch))
    return _Chunk(indices, keys, stamps, subjects, batches)


def _kept_references(examination: Examination) -> KeptFeatures | None:
    """What computes each reference once; None where the config gives it no memory."""
    config, responder = examination.config.inspect, examination.responder
    megabytes = config.reference_memory_mb
    if not megabytes:
        return None
    one_for_all = bool(config.references) and Path(config.references).expanduser().is_file()
    at_once, model = responder.rows(1 if one_for_all else _REFERENCES_AT_ONCE), examination.config.model
    return KeptFeatures(
        responder.vit_features,
        form=feature_form(model, np.dtype(compute_dtype(model))),
        tiles_at_once=at_once * tiles_per_image(model),
        capacity=megabytes * 10**6,
        images=("reference_tiles",),
    )


def _tell(chunk: _Chunk, examination: Examination, references: KeptFeatures | None) -> list[Told | None]:
    """What the model says of every image of a chunk, in its order; None for images that cannot be read."""
    found: list[Told | None] = [None] * len(chunk.subjects)
    for positions, records, batch in chunk.batches:
        shown = batch if references is None else references.put_into(batch)
        for position, told in zip(positions, ask(shown, records, examination), strict=True):
            found[position] = told
    return found


class _RowWriter:
    """Makes rows and overlays of answered chunks, and writes them down, while the devices answer the next one.

    Rows come to the journal in the order of the chunks, each when its overlay is written. Leaving the block waits for
    all of them, whatever ended it: what was answered is kept. Only the first process writes.
    """

    def __init__(self, examination: Examination, output: Path, journal: RowJournal, places: np.ndarray) -> None:
        self._examination, self._output, self._journal, self._places = examination, output, journal, places
        self._in_order = ThreadPoolExecutor(1, thread_name_prefix="write-rows")
        self._drawing = ThreadPoolExecutor(min(_MOST_DRAWING, os.cpu_count() or 1), thread_name_prefix="draw")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_order.shutdown()
        self._drawing.shutdown()

    def put(self, chunk: _Chunk, told: Sequence[Told | None]) -> None:
        """Takes a chunk, once the one before it is written down: memory holds one at a time."""
        self.wait()
        if jax.process_index() == 0:
            self._pending = self._in_order.submit(self._write, chunk, told)

    def wait(self) -> None:
        """Returns when all is written down; raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, chunk: _Chunk, told: Sequence[Told | None]) -> None:
        rows = self._drawing.map(self._row, chunk.subjects, chunk.keys, told)
        try:
            self._places[chunk.indices] = self._journal.append(list(zip(chunk.keys, chunk.stamps, rows, strict=True)))
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(
                f"inspect.output: {self._output} cannot be written: {why}; the images before it keep their rows"
            ) from None

    def _row(self, subject: Subject, key: str, told: Told | None) -> InspectionRow:
        if told is None:
            return InspectionRow(subject.path, subject.category, "unreadable", None, "", error=subject.error)
        path = self._output / "overlays" / f"{_short_stem(told.record.test_path)}_{key}.png"
        return _row(told, self._examination.config, path)


def _short_stem(path: str) -> str:
    """A file's stem, cut to 80 bytes, so that with key and suffix it is a file name everywhere."""
    return Path(path).stem.encode()[:80].decode(errors="ignore")


def _row(told: Told, config: Config, overlay_path: Path) -> InspectionRow:
    """An image's row; writes its overlay where it has a reference."""
    record, score = told.record, told.verdict_score
    row = InspectionRow(
        image=record.test_path,
        category=record.category,
        verdict="defective" if score >= config.inspect.threshold else "good",
        score=score,
        reason=told.reason,
        truth=None if record.anomalous is None else ("defective" if record.anomalous else "good"),
        follow_ups=told.follow_ups,
        reference=record.reference_path if record.reference_image is not None else "",
    )
    if record.reference_image is None:
        return row
    image, found = anomaly_map(record, told.similarity, config.model)
    boxes = tuple(peak_boxes(found, threshold=config.inspect.map_threshold, max_boxes=5))
    replace_file(overlay_path, picture(overlay(image, np.clip(found, 0.0, 1.0), boxes)))
    return dataclasses.replace(row, boxes=boxes, overlay_path=str(overlay_path))
