"""Inspection of a user's images: verdict, score, reason, map; a JSONL, overlay pictures and one HTML report."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.batch import Answers, TreeBatch
from sage_jax.config import ConfigError
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record
from sage_jax.dialogue import Dialogue, fact_record, write_facts
from sage_jax.evaluate import Examination, anomaly_map, draw_seeds, inspection_record, shown_records
from sage_jax.files import replace_file
from sage_jax.kept_references import KeptReferences
from sage_jax.metrics.localisation import peak_boxes
from sage_jax.models.decoding import Opening
from sage_jax.report import (
    InspectionRow,
    Pictures,
    Totals,
    choose_rows,
    count_rows,
    overlay,
    picture,
    small_picture,
    write_report,
    write_rows_jsonl,
)
from sage_jax.row_journal import RowJournal
from sage_jax.run_config import InspectConfig
from sage_jax.run_log import RunLog
from sage_jax.stop_request import StopRequest
from sage_jax.subjects import Images, Subject

_LARGE_PICTURES: Final = 50
"""Rows of a page that get pictures of 1024 px; with more, they are small, or no browser would open it."""
_TO_DO: Final = -1
_REFERENCES_AT_ONCE: Final = 4
"""References that the ViT runs on together: with one for all images, what it computes beside that is waste."""


@dataclasses.dataclass(frozen=True)
class Inspected:
    """How far an inspection came.

    Attributes:
      done: Images that have their row.
      totals: Counts over all rows; None where it was stopped, and on processes other than the first.
    """

    done: int
    totals: Totals | None


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
        log.resumed = True
        log.line(f"{done} of {len(images)} images were done before the stop, {len(missing)} are left")
    rows = examination.rows(len(images))
    chunks = [missing[start : start + rows].tolist() for start in range(0, len(missing), rows)]
    references = _kept_references(examination)
    with (
        StopRequest(log.line, mesh, after="this batch") as stop,
        log.progress(len(images), done=done, unit="image") as advance,
        contextlib.closing(_read_ahead(images, chunks, examination, rows)) as read,
    ):
        for chunk in read:
            found = _inspected(chunk, examination, references, output)
            if jax.process_index() == 0:
                places[chunk.indices] = journal.append(list(zip(chunk.keys, chunk.stamps, found, strict=True)))
            done += len(chunk.indices)
            advance(done)
            if stop.agreed() and done < len(images):
                return Inspected(done, None)
    if jax.process_index() > 0:
        return Inspected(done, None)
    write_rows_jsonl(output / "inspection.jsonl", journal.rows(places))
    totals = count_rows(journal.rows(places))
    model = f"{stage} of {examination.config.run_dir}"
    page = output / "report.html"
    _write_page(page, images, journal, places, totals, model=model, config=examination.config.inspect, log=log)
    journal.remove()
    return Inspected(done, totals)


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
            (position, inspection_record(subject.record))
            for position, subject in enumerate(subjects)
            if subject.record and (subject.record.reference_image is not None) is one_shot
        ]
        if chosen:
            positions, records = zip(*chosen, strict=True)
            (batch,) = examination.batches(records, with_reference=one_shot, answers="none", rows=rows)
            batches.append((positions, records, batch))
    return _Chunk(indices, keys, stamps, subjects, batches)


def _kept_references(examination: Examination) -> KeptReferences | None:
    """What computes each reference once; None where the config gives it no memory."""
    megabytes, responder = examination.config.inspect.reference_memory_mb, examination.responder
    if not megabytes:
        return None
    at_once = responder.rows(_REFERENCES_AT_ONCE)
    return KeptReferences(responder.vit_features, images_at_once=at_once, capacity=megabytes * 10**6)


def _inspected(
    chunk: _Chunk, examination: Examination, references: KeptReferences | None, output: Path
) -> list[InspectionRow]:
    """A row for every image of a chunk, in its order; writes the overlays."""
    rows = [
        InspectionRow(subject.path, subject.category, "unreadable", None, "", error=subject.error)
        if subject.record is None
        else None
        for subject in chunk.subjects
    ]
    for positions, records, batch in chunk.batches:
        shown = batch if references is None else references.put_into(batch)
        answered = _answered(shown, records, examination)
        for position, (record, answers, follow_ups) in zip(positions, answered, strict=True):
            path = output / "overlays" / f"{_short_stem(record.test_path)}_{chunk.keys[position]}.png"
            rows[position] = dataclasses.replace(_row(record, answers, examination, path), follow_ups=follow_ups)
    return [row for row in rows if row is not None]


def _answered(
    batch: TreeBatch, records: Sequence[Record], examination: Examination
) -> Iterator[tuple[Record, Answers, tuple[tuple[str, str], ...]]]:
    """Each record, the answer to the batch's question, and those to `inspect.questions` in the same conversation.

    Raises:
      TreeError: A conversation is longer than the largest bucket.
    """
    questions, opening = examination.config.inspect.questions, None
    if examination.config.inspect.facts == "model":
        batch, opening = _with_own_facts(batch, records, examination)
    elif not questions:
        yield from ((record, answers, ()) for record, answers in examination.answer(batch, records))
        return
    shown = shown_records(batch, records)
    dialogue = Dialogue(
        examination.responder,
        examination.chat,
        batch,
        facts_as=examination.facts_as,
        seeds=draw_seeds(shown),
        opening=opening,
    )
    said = [dialogue.ask(question) for question in questions]
    found = dialogue.answers
    for row, record in enumerate(shown):
        if record is not None:
            first = Answers(found.token_ids[row], found.verdict_score[row], found.similarity[row])
            yield record, first, tuple((question, turn[row]) for question, turn in zip(questions, said, strict=True))


def _with_own_facts(batch: TreeBatch, records: Sequence[Record], examination: Examination) -> tuple[TreeBatch, Opening]:
    """The batch with facts that the model has written about its images, and where talks about them begin."""
    chat, rows = examination.chat, len(batch.record_index)
    how: dict[str, Any] = {"with_reference": bool(batch.reference_tile_mask.any()), "answers": "none", "rows": rows}
    asking = dataclasses.replace(examination, facts_as="text")
    (asked,) = asking.batches([fact_record(record, chat) for record in records], **how)
    told, opening = write_facts(
        examination.responder,
        chat,
        asked,
        max_new_tokens=examination.config.inspect.fact_tokens,
        seeds=draw_seeds(shown_records(batch, records)),
    )
    own = [dataclasses.replace(record, facts=facts) for record, facts in zip(records, told, strict=False)]
    (batch,) = examination.batches(own, **how)
    return batch, opening


def _short_stem(path: str) -> str:
    """A file's stem, cut to 80 bytes, so that with key and suffix it is a file name everywhere."""
    return Path(path).stem.encode()[:80].decode(errors="ignore")


def _row(record: Record, answers: Answers, examination: Examination, overlay_path: Path) -> InspectionRow:
    config = examination.config
    score = float(answers.verdict_score[0])
    verdict: Literal["defective", "good"] = "defective" if score >= config.inspect.threshold else "good"
    row = InspectionRow(
        image=record.test_path,
        category=record.category,
        verdict=verdict,
        score=score,
        reason=examination.chat.decode(np.asarray(answers.token_ids[0])),
        truth=None if record.anomalous is None else ("defective" if record.anomalous else "good"),
        reference=record.reference_path if record.reference_image is not None else "",
    )
    if record.reference_image is None:
        return row
    image, found = anomaly_map(record, np.asarray(answers.similarity), config.model)
    boxes = tuple(peak_boxes(found, threshold=config.inspect.map_threshold, max_boxes=5))
    if jax.process_index() == 0:
        replace_file(overlay_path, picture(overlay(image, np.clip(found, 0.0, 1.0), boxes)))
    return dataclasses.replace(row, boxes=boxes, overlay_path=str(overlay_path))


def _write_page(
    path: Path,
    images: Images,
    journal: RowJournal,
    places: np.ndarray,
    totals: Totals,
    *,
    model: str,
    config: InspectConfig,
    log: RunLog,
) -> None:
    """The report, with pictures made from the files one row after the other."""
    chosen = choose_rows(journal.rows(places), config.report_images)
    rows = list(journal.rows(places[chosen]))

    facts = {"Model": model, "Images": str(totals.images), "With reference": str(totals.one_shot)}
    with log.progress(len(rows), unit="report row") as advance:

        def pictures(position: int) -> Pictures:
            made = _pictures(images.read(chosen[position]), rows[position], small=len(rows) > _LARGE_PICTURES)
            advance(position + 1)
            return made

        write_report(
            path,
            rows,
            title="Inspection report",
            facts=facts,
            pictures=pictures,
            totals=totals,
            threshold=config.threshold,
        )


def _pictures(subject: Subject, row: InspectionRow, *, small: bool) -> Pictures:
    """A row's pictures; none of a file that is gone since."""
    record = subject.record
    if row.verdict == "unreadable" or record is None:
        return Pictures()
    encode = small_picture if small else picture
    test = encode(decode_rgb(record.test_image, name=record.test_path))
    if record.reference_image is None or not Path(row.overlay_path).is_file():
        return Pictures(test)
    reference = encode(decode_rgb(record.reference_image, name=record.reference_path))
    drawn = Path(row.overlay_path).read_bytes()
    return Pictures(test, reference, encode(decode_rgb(drawn, name=row.overlay_path)) if small else drawn)
