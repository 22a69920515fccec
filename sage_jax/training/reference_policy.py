"""Log-probabilities under the reference policy: computed once for a data set, kept by what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import jax
import numpy as np
from jax.sharding import Mesh

from sage_jax.axes import Float
from sage_jax.batch import TreeBatch
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import make_eval_batches
from sage_jax.data.trees.encode import ChosenRecords, TreeFormat, TreeUse
from sage_jax.generation.responder import Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.process.checksums import open_bytes, sealed_bytes
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import StopRequest

_HEADER: Final = np.dtype("<i4")
_HEADER_BYTES: Final = 4 * _HEADER.itemsize


@dataclasses.dataclass(frozen=True)
class ReferenceKey:
    """What reference log-probabilities depend on.

    Attributes:
      weights_digest: Hash of the reference policy's parameters.
      data_revision: Hash of the data set.
      form: Template and tokenizer, sizes of the model, shapes of the tree.
    """

    weights_digest: str
    data_revision: str
    form: TreeFormat

    def digest(self) -> str:
        """Name of the file that holds them."""
        parts = [
            self.weights_digest,
            self.data_revision,
            self.form.chat.tokenizer_digest(),
            dataclasses.asdict(self.form.model),
            dataclasses.asdict(self.form.text),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def reference_logps(
    records: Sequence[Record],
    wanted: tuple[Sequence[int], Sequence[int]],
    *,
    responder: Responder,
    key: ReferenceKey,
    batch_size: int,
    folder: Path,
    log: RunLog,
    mesh: Mesh,
) -> Float[np.ndarray, "I 2 Q N"]:
    """Summed log-probability of the answers of wanted records, zero-shot (0) and one-shot (1), in nats.

    What was computed before from the same weights, records, template and shapes is read from `folder`, and only the
    rest computed; what is not wanted and was never computed is NaN. Batches are kept as they come: stopped or killed
    and called again, it goes on with the batches of a call that was never stopped, and gives its numbers to the bit.

    Args:
      wanted: Records wanted zero-shot, and records wanted one-shot.
      mesh: Devices of all processes.

    Raises:
      Interrupted: A signal has come; the batches done are kept.
    """
    path = folder / f"{key.digest()}.npy"
    table = _read(path, log)
    rows = responder.rows(min(batch_size, max(map(len, wanted))))
    partial = _PartialTable(path.with_suffix(".partial"), len(records), rows)
    table = partial.added_to(table)
    missing = [
        [index for index in indices if table is None or np.isnan(table[index, mode]).all()]
        for mode, indices in enumerate(wanted)
    ]
    found, lacking = sum(map(len, wanted)), sum(map(len, missing))
    log.line(f"reference log-probabilities: {found - lacking} answer sets known, {lacking} to compute")
    if not lacking and table is not None and path.exists():
        return table
    with StopRequest(log.line, mesh, after="this batch") as stop:
        table = _computed(table, records, missing, responder, key, partial, rows, log, stop)
    assert table is not None
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        np.save(buffer, table)
        replace_file(path, sealed_bytes(buffer.getvalue()))
        partial.remove()
    return table


def _read(path: Path, log: RunLog) -> np.ndarray | None:
    """The table of a file; None where there is none, or a damaged one, which is computed again."""
    if not path.exists():
        return None
    try:
        return np.load(io.BytesIO(open_bytes(path.read_bytes())))
    except (OSError, ValueError, EOFError) as error:
        raise_if_lacking(error, path)
        log.line(f"{path} is damaged ({error}): reference log-probabilities are computed again")
        path.unlink(missing_ok=True)
        return None


def _computed(
    table: np.ndarray | None,
    records: Sequence[Record],
    missing: Sequence[Sequence[int]],
    responder: Responder,
    key: ReferenceKey,
    partial: _PartialTable,
    rows: int,
    log: RunLog,
    stop: StopRequest,
) -> np.ndarray | None:
    """The table with the missing records, zero-shot (0) and one-shot (1); each batch goes to the partial file too."""
    done, batches = 0, sum(-(-len(indices) // rows) for indices in missing)
    with log.progress(batches, unit="reference batch") as advance:
        for mode, indices in enumerate(missing):
            chosen = ChosenRecords(records, indices)
            for batch in _batches(chosen, key, rows, with_reference=bool(mode)) if indices else ():
                if stop.agreed():
                    raise Interrupted(f"stopped after {done} of {batches} batches of reference log-probabilities")
                logps = responder.answer_logps(batch)
                numbers = np.array([indices[i] if i >= 0 else -1 for i in np.asarray(batch.record_index)], np.int32)
                one_shot = np.any(np.asarray(batch.reference_tile_mask), axis=1)
                entry = partial.entry(mode, numbers, np.asarray(one_shot), logps)
                table = _filled(table, entry, len(records))
                if jax.process_index() == 0:
                    partial.append(entry)
                done += 1
                advance(done)
    return table


class _PartialTable:
    """The batches of a table under way, in a file that grows by whole ones: what a stop or a kill leaves.

    A header of int32[4] (records, rows of a batch, questions, answers), then one entry a batch. A batch that a kill cut
    short is cut off, and so is one that is not as it was written, with all behind it.
    """

    def __init__(self, path: Path, num_records: int, rows: int) -> None:
        self._path, self._num_records, self._rows = path, num_records, rows

    def entry(self, mode: int, numbers: np.ndarray, one_shot: np.ndarray, logps: np.ndarray) -> np.ndarray:
        """A batch: mode, record numbers [B] (-1 = padding), rows with a reference [B], log-probabilities [B, Q, N]."""
        entry = np.zeros((), _entry_type(self._rows, *logps.shape[1:]))
        entry["mode"], entry["numbers"], entry["one_shot"], entry["logps"] = mode, numbers, one_shot, logps
        entry["crc"] = _crc(entry)
        return entry

    def append(self, entry: np.ndarray) -> None:
        """Writes a batch, behind a header if it is the first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            if file.tell() == 0:
                file.write(np.array([self._num_records, *entry["logps"].shape], _HEADER).tobytes())
            file.write(entry.tobytes())

    def added_to(self, table: np.ndarray | None) -> np.ndarray | None:
        """The table with the batches of the file; those of other batch sizes are left out and deleted."""
        if not self._path.exists():
            return table
        content = self._path.read_bytes()
        header = np.frombuffer(content[:_HEADER_BYTES], _HEADER) if len(content) >= _HEADER_BYTES else np.zeros(4, int)
        sizes = [*map(int, header[1:])]
        if (header[0], sizes[0]) != (self._num_records, self._rows) or not 0 < math.prod(sizes) <= len(content):
            if jax.process_index() == 0:
                self.remove()
            return table
        kind = _entry_type(*sizes)
        entries = np.frombuffer(
            content, kind, count=(len(content) - _HEADER_BYTES) // kind.itemsize, offset=_HEADER_BYTES
        )
        whole = next((at for at, entry in enumerate(entries) if entry["crc"] != _crc(entry)), len(entries))
        for entry in entries[:whole]:
            table = _filled(table, entry, self._num_records)
        if jax.process_index() == 0:
            os.truncate(self._path, _HEADER_BYTES + whole * kind.itemsize)
        return table

    def remove(self) -> None:
        """Deletes the file: its batches are in the table."""
        self._path.unlink(missing_ok=True)


def _entry_type(rows: int, num_questions: int, num_answers: int) -> np.dtype:
    logps = ("logps", "<f4", (rows, num_questions, num_answers))
    return np.dtype([("mode", "<i4"), ("numbers", "<i4", (rows,)), ("one_shot", "?", (rows,)), logps, ("crc", "<u4")])


def _crc(entry: np.ndarray) -> int:
    """CRC-32 of an entry, its own field aside."""
    return zlib.crc32(entry.tobytes()[: -np.dtype("<u4").itemsize])


def _filled(table: np.ndarray | None, entry: np.ndarray, num_records: int) -> np.ndarray:
    """The table, made where there is none, with a batch."""
    if table is None:
        table = np.full((num_records, 2, *entry["logps"].shape[1:]), np.nan, np.float32)
    for number, one_shot, logps in zip(entry["numbers"], entry["one_shot"], entry["logps"], strict=True):
        if number >= 0:
            # A record without a reference image is zero-shot whatever was drawn for it.
            table[number, [int(entry["mode"])] if one_shot else [0, int(entry["mode"])]] = logps
    return table


def _batches(records: Sequence[Record], key: ReferenceKey, rows: int, *, with_reference: bool) -> Iterator[TreeBatch]:
    return make_eval_batches(records, key.form, TreeUse("ranked"), batch_size=rows, with_reference=with_reference)


def attach_reference(table: Float[np.ndarray, "I 2 Q N"]) -> Callable[[TreeBatch], TreeBatch]:
    """Fills `reference_logps` of a batch from the table, by record, mode and question."""

    def attach(batch: TreeBatch) -> TreeBatch:
        one_shot = np.asarray(batch.reference_tile_mask).any(axis=1).astype(int)
        rows, questions = np.asarray(batch.record_index), np.asarray(batch.question_ids)
        found = table[np.maximum(rows, 0)[:, None], one_shot[:, None], np.maximum(questions, 0)]
        known = (rows[:, None] >= 0) & (questions >= 0)
        return dataclasses.replace(batch, reference_logps=np.where(known[..., None], found, 0.0).astype(np.float32))

    return attach
