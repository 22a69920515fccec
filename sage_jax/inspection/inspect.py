"""Inspection of a user's images: verdict, score, reason, map; a JSONL, overlay pictures and one HTML report."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.config import ConfigError
from sage_jax.data.trees.encode import tiles_per_image
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.batches import (
    ImageBatch,
    answer_batch,
    cached_references,
    read_ahead,
    read_batch,
)
from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.images import Images, InputImage
from sage_jax.inspection.page import write_page
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.inspection.report import InspectionRow, Totals, count_rows, write_rows_jsonl
from sage_jax.inspection.result import Inspection, make_inspection, unreadable
from sage_jax.inspection.spreadsheet import write_rows_csv
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import load_summary
from sage_jax.metrics.familiarity import Familiarity
from sage_jax.process.stop_request import StopRequest

_TO_DO: Final = -1
_MOST_REFERENCE_TILES: Final = 2048
"""Tiles of references of a batch."""
_MOST_DRAWING: Final = 4
"""Overlays that are drawn at once."""


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
    images: Images,
    evaluator: Evaluator,
    *,
    stage: str,
    output: Path,
    log: RunLog,
    mesh: Mesh,
    promise: str = "",
    familiarity: Familiarity | None = None,
) -> Inspected:
    """Answers for every image; writes `inspection.jsonl`, `inspection.csv`, `overlays/` and `report.html` there.

    Finished rows are kept in `inspection.jsonl.partial` until all are done. An image whose row is found there, made by
    the same model and options from the same files, is not inspected again. Ctrl-C and SIGTERM stop after a batch.

    Args:
      promise: What holds of the threshold, for the report's head.
      familiarity: What the images look like that the model was calibrated on; others are `unsure`. None = not known.

    Raises:
      ConfigError: `output` cannot be written.
    """
    made_by = _made_by(evaluator, output, familiarity)
    journal = RowJournal(_writable(output) / "inspection.jsonl.partial", made_by)
    offsets = _row_offsets(images, journal)
    missing = np.flatnonzero(offsets == _TO_DO)
    done = len(images) - len(missing)
    if done:
        log.line(f"{done} of {len(images)} images were done before the stop, {len(missing)} are left")
    rows = _rows_at_once(evaluator, len(images))
    chunks = [missing[start : start + rows].tolist() for start in range(0, len(missing), rows)]
    one_for_all = _has_one_reference(evaluator.config.inspect.references)
    references = cached_references(evaluator, one_for_all=one_for_all)
    speed = _Speed()
    with (
        StopRequest(log.line, mesh, after="this batch") as stop,
        log.progress(len(images), done=done, unit="image") as advance,
        contextlib.closing(read_ahead(chunks, functools.partial(_read_of, images, evaluator, rows))) as read,
        _RowWriter(evaluator, output, journal, offsets, familiarity) as writer,
    ):
        for chunk in read:
            answers = answer_batch(chunk.batch, evaluator, references)
            writer.put(chunk, answers)
            done += len(chunk.indices)
            speed.batch_done(answers)
            advance(done)
            if stop.agreed() and done < len(images):
                break
        writer.wait()
    found = Inspected(done, None, resumed=len(missing) < len(images), counts=speed.counts())
    if done < len(images) or jax.process_index() > 0:
        return found
    written = _Written(images, journal, offsets, output)
    about = {"Model": f"{stage} of {evaluator.config.run_dir}"} | ({"Promise": promise} if promise else {})
    return _finished(found, written, evaluator, stage=stage, about=about, log=log)


@dataclasses.dataclass(frozen=True)
class _Written:
    """An inspection whose rows are all written: images, their rows in the journal, and the folder of the results."""

    images: Images
    journal: RowJournal
    offsets: np.ndarray
    output: Path


def _finished(
    found: Inspected, written: _Written, evaluator: Evaluator, *, stage: str, about: dict[str, str], log: RunLog
) -> Inspected:
    """Writes JSONL, CSV and report, and removes the journal."""
    journal, offsets = written.journal, written.offsets
    write_rows_jsonl(written.output / "inspection.jsonl", journal.rows(offsets))
    write_rows_csv(written.output / "inspection.csv", journal.rows(offsets))
    totals = count_rows(journal.rows(offsets))
    start = time.monotonic()
    if measured := _measured(Path(evaluator.config.run_dir) / "summary.json", stage):
        about = {**about, "Reasons on test data": measured}
    options, page = evaluator.config.inspect, written.output / "report.html"
    write_page(page, written.images, journal, offsets, totals, about=about, config=options, log=log)
    counts = found.counts | {"report_seconds": time.monotonic() - start}
    journal.remove()
    return dataclasses.replace(found, totals=totals, counts=counts)


def _measured(summary: Path, stage: str) -> str:
    """How far a stage's reasons can be trusted: what its evaluation with references found; "" without one."""
    entry = load_summary(summary)["metrics"].get(stage, {}).get("one_shot", {})
    names = {"reason_kind": "kind", "reason_place": "place", "reason_both": "both"}
    found = [(label, entry.get(name, {}).get("value")) for name, label in names.items()]
    return ", ".join(f"{label} right in {value:.2f}" for label, value in found if value is not None)


def _writable(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write")
    except OSError as error:
        raise ConfigError(f"inspect.output: {output} cannot be written: {error.strerror or error}") from None
    return output


def _rows_at_once(evaluator: Evaluator, number: int) -> int:
    """Images of a batch; fewer of them where each is compared with many references, which take the memory."""
    config = evaluator.config
    tiles = config.num_references * tiles_per_image(config.model)
    return evaluator.rows(max(1, min(number, _MOST_REFERENCE_TILES // tiles)))


def _made_by(evaluator: Evaluator, output: Path, familiarity: Familiarity | None) -> str:
    """Hash of all that decides a row beside its files."""
    config = evaluator.config.inspect
    return evaluator.digest(
        threshold=config.threshold,
        map_threshold=config.map_threshold,
        map_detail=evaluator.config.evaluate.map_detail,
        category=config.category,
        register=evaluator.config.data.register,
        num_references=evaluator.config.num_references,
        questions=config.questions,
        ask=config.ask,
        facts=config.facts,
        fact_tokens=config.fact_tokens,
        output=str(output),
        words="agreeing",  # rows of a version that did not say contradictions anew are not gone on with
        familiarity="" if familiarity is None else familiarity.digest(),
    )


def _row_offsets(images: Images, journal: RowJournal) -> np.ndarray:
    """Where the journal has each image's row, from the files as they are now; the first process decides for all."""
    offsets = np.full(len(images), _TO_DO)
    if jax.process_index() == 0:
        entries = journal.find()
        for index in range(len(images)) if entries else ():
            entry = entries.get(images.key(index))
            if entry is not None and entry.stamp == images.stamp(index):
                offsets[index] = entry.offset
        known = np.flatnonzero(offsets != _TO_DO)
        for index, row in zip(known, journal.rows(offsets[known]), strict=False):
            if row.overlay_path and not Path(row.overlay_path).is_file():
                offsets[index] = _TO_DO
    if jax.process_count() > 1:
        done = multihost_utils.broadcast_one_to_all(offsets != _TO_DO)
        offsets = offsets if jax.process_index() == 0 else np.where(done, 0, _TO_DO)
    return offsets


class _Speed:
    """How long the batches of an inspection take, from its first image to its last row.

    Attributes:
      num_images, num_tokens: Images inspected, and tokens of the answers about them.
    """

    def __init__(self) -> None:
        self.num_images, self.num_tokens = 0, 0
        self._start = time.monotonic()
        self._first: float | None = None

    def batch_done(self, answers: Sequence[ImageAnswers | None]) -> None:
        """Counts a batch that has been answered; the first, which compiles, is timed by itself."""
        self.num_images += len(answers)
        self.num_tokens += sum(each.num_tokens for each in answers if each is not None)
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
    """A batch of images with their entries of the journal.

    Attributes:
      indices, keys, stamps: Of each image.
      batch: The images as the model gets them.
    """

    indices: Sequence[int]
    keys: Sequence[str]
    stamps: Sequence[str]
    batch: ImageBatch


def _read_of(images: Images, evaluator: Evaluator, rows: int, indices: Sequence[int]) -> _Chunk:
    keys = [images.key(index) for index in indices]
    stamps = [images.stamp(index) for index in indices]  # before the content: a change after it is seen next time
    return _Chunk(indices, keys, stamps, read_batch([images.read(index) for index in indices], evaluator, rows))


def _has_one_reference(references: str) -> bool:
    return bool(references) and Path(references).expanduser().is_file()


class _RowWriter:
    """Makes rows and overlays of answered chunks, and writes them down, while the devices answer the next one.

    Rows come to the journal in the order of the chunks, each when its overlay is written. Leaving the block waits for
    all of them, whatever ended it: what was answered is kept. Only the first process writes.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        output: Path,
        journal: RowJournal,
        offsets: np.ndarray,
        familiarity: Familiarity | None,
    ) -> None:
        self._familiarity = familiarity
        self._evaluator, self._output, self._journal, self._row_offsets = evaluator, output, journal, offsets
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

    def put(self, chunk: _Chunk, answers: Sequence[ImageAnswers | None]) -> None:
        """Takes a chunk, once the one before it is written down: memory holds one at a time."""
        self.wait()
        if jax.process_index() == 0:
            self._pending = self._in_order.submit(self._write, chunk, answers)

    def wait(self) -> None:
        """Returns when all is written down; raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, chunk: _Chunk, answers: Sequence[ImageAnswers | None]) -> None:
        rows = self._drawing.map(self._row, chunk.batch.inputs, chunk.keys, answers)
        try:
            entries = list(zip(chunk.keys, chunk.stamps, rows, strict=True))
            self._row_offsets[chunk.indices] = self._journal.append(entries)
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(
                f"inspect.output: {self._output} cannot be written: {why}; the images before it keep their rows"
            ) from None

    def _row(self, image: InputImage, key: str, answers: ImageAnswers | None) -> InspectionRow:
        """An image's row; writes its overlay where it has a reference."""
        if answers is None:
            found = unreadable(image.path, image.category, image.error)
            return row_of(found, truth=None)
        found = make_inspection(answers, self._evaluator.config, self._familiarity)
        anomalous = answers.record.anomalous
        row = row_of(found, truth=None if anomalous is None else ("defective" if anomalous else "good"))
        if found.anomaly_map is None:
            return row
        path = self._output / "overlays" / f"{_short_stem(found.image)}_{key}.png"
        return dataclasses.replace(row, overlay_path=str(found.save_overlay(path)))


def _short_stem(path: str) -> str:
    """A file's stem, cut to 80 bytes, so that with key and suffix it is a file name everywhere."""
    return Path(path).stem.encode()[:80].decode(errors="ignore")


def row_of(found: Inspection, *, truth: Literal["defective", "good"] | None) -> InspectionRow:
    """The row of a finding, without its overlay."""
    return InspectionRow(
        image=found.image,
        category=found.category,
        verdict=found.verdict,
        score=found.score,
        reason=found.reason,
        boxes=found.boxes,
        error=found.error,
        truth=truth,
        follow_ups=found.answers,
        reference=found.reference,
        num_references=found.num_references,
        map_peak=found.map_peak,
        difference_peak=found.difference_peak,
        map_median=None if found.anomaly_map is None else float(np.median(found.anomaly_map)),
        doubt=found.doubt,
        facts=found.facts,
    )
