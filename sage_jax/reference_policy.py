"""Log-probabilities under the reference policy: computed once for a data set, kept by what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import jax
import numpy as np

from sage_jax.axes import Float
from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.chat import Chat
from sage_jax.data.encode import count_records
from sage_jax.data.pipeline import Counted, make_eval_batches
from sage_jax.data.records import Record
from sage_jax.files import replace_file
from sage_jax.generate import Responder
from sage_jax.run_log import RunLog


@dataclasses.dataclass(frozen=True)
class ReferenceKey:
    """What reference log-probabilities depend on.

    Attributes:
      weights_digest: Hash of the reference policy's parameters.
      data_revision: Hash of the data set.
      chat: Template and tokenizer.
      model, text: Sizes of the model and shapes of the tree.
    """

    weights_digest: str
    data_revision: str
    chat: Chat
    model: ModelConfig
    text: TextConfig

    def digest(self) -> str:
        """Name of the file that holds them."""
        parts = [
            self.weights_digest,
            self.data_revision,
            self.chat.tokenizer_digest(),
            dataclasses.asdict(self.model),
            dataclasses.asdict(self.text),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def reference_logps(
    records: Sequence[Record],
    wanted: Sequence[int],
    *,
    responder: Responder,
    key: ReferenceKey,
    batch_size: int,
    folder: Path,
    run: RunLog,
) -> Float[np.ndarray, "R 2 Q N"]:
    """Summed log-probability of the answers of wanted records, zero-shot (0) and one-shot (1), in nats.

    What was computed before from the same weights, records, template and shapes is read from `folder`, and only the
    rest computed; records not wanted and never computed are NaN.
    """
    path = folder / f"{key.digest()}.npy"
    table = np.load(path) if path.exists() else None
    missing = [index for index in wanted if table is None or np.isnan(table[index, 0]).all()]
    run.line(f"reference log-probabilities: {len(wanted) - len(missing)} records known, {len(missing)} to compute")
    if not missing:
        assert table is not None
        return table
    rows = responder.rows(min(batch_size, len(missing)))
    shown = _Chosen(records, missing)
    computed: list[np.ndarray] = []
    with run.progress(2 * -(-len(missing) // rows), unit="reference batch") as advance:
        for with_reference in (False, True):
            batches = make_eval_batches(
                shown,
                chat=key.chat,
                model=key.model,
                text=key.text,
                batch_size=rows,
                with_reference=with_reference,
                answers="ranked",
            )
            for batch in batches:
                computed.append(responder.answer_logps(batch))
                advance(len(computed))
    half = len(computed) // 2
    new = np.stack([np.concatenate(part)[: len(missing)] for part in (computed[:half], computed[half:])], axis=1)
    if table is None:
        table = np.full((len(records), *new.shape[1:]), np.nan, np.float32)
    table[missing] = new
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        np.save(buffer, table)
        replace_file(path, buffer.getvalue())
    return table


class _Chosen(Sequence[Record]):
    """Some records of a data set, read as they are asked for, under the whole data set's counts.

    The counts give the table its shape, which must be that of the training batches whichever records are computed.
    """

    def __init__(self, records: Sequence[Record], indices: Sequence[int]):
        self._records, self._indices = records, indices
        self.counts = records.counts if isinstance(records, Counted) else count_records(records)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> _Chosen: ...

    def __getitem__(self, index: int | slice) -> Record | _Chosen:
        if isinstance(index, slice):
            return _Chosen(self._records, self._indices[index])
        return self._records[self._indices[index]]


def attach_reference(table: Float[np.ndarray, "R 2 Q N"]) -> Callable[[TreeBatch], TreeBatch]:
    """Fills `reference_logps` of a batch from the table, by record, mode and question."""

    def attach(batch: TreeBatch) -> TreeBatch:
        one_shot = np.asarray(batch.reference_tile_mask).any(axis=1).astype(int)
        rows, questions = np.asarray(batch.record_index), np.asarray(batch.question_ids)
        found = table[np.maximum(rows, 0)[:, None], one_shot[:, None], np.maximum(questions, 0)]
        known = (rows[:, None] >= 0) & (questions >= 0)
        return dataclasses.replace(batch, reference_logps=np.where(known[..., None], found, 0.0).astype(np.float32))

    return attach
