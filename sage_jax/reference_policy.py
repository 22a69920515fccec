"""Log-probabilities under the reference policy: computed once for a data set, kept by what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from sage_jax.axes import Float
from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.chat import Chat
from sage_jax.data.encode import ChosenRecords
from sage_jax.data.pipeline import make_eval_batches
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
    wanted: tuple[Sequence[int], Sequence[int]],
    *,
    responder: Responder,
    key: ReferenceKey,
    batch_size: int,
    folder: Path,
    run: RunLog,
) -> Float[np.ndarray, "R 2 Q N"]:
    """Summed log-probability of the answers of wanted records, zero-shot (0) and one-shot (1), in nats.

    What was computed before from the same weights, records, template and shapes is read from `folder`, and only the
    rest computed; what is not wanted and was never computed is NaN.

    Args:
      wanted: Records wanted zero-shot, and records wanted one-shot.
    """
    path = folder / f"{key.digest()}.npy"
    table = np.load(path) if path.exists() else None
    missing = [
        [index for index in indices if table is None or np.isnan(table[index, mode]).all()]
        for mode, indices in enumerate(wanted)
    ]
    found, lacking = sum(map(len, wanted)), sum(map(len, missing))
    run.line(f"reference log-probabilities: {found - lacking} answer sets known, {lacking} to compute")
    if not lacking and table is not None:
        return table
    rows = responder.rows(min(batch_size, max(map(len, missing))))
    done, batches = 0, sum(-(-len(indices) // rows) for indices in missing)
    with run.progress(batches, unit="reference batch") as advance:
        for mode, indices in enumerate(missing):
            for batch in (
                _batches(ChosenRecords(records, indices), key, rows, with_reference=bool(mode)) if indices else ()
            ):
                logps = responder.answer_logps(batch)
                if table is None:
                    table = np.full((len(records), 2, *logps.shape[1:]), np.nan, np.float32)
                for row, position in enumerate(np.asarray(batch.record_index)):
                    if position >= 0:
                        # A record without a reference image is zero-shot whatever was drawn for it.
                        modes = [mode] if batch.reference_tile_mask[row].any() else [0, mode]
                        table[indices[position], modes] = logps[row]
                done += 1
                advance(done)
    assert table is not None
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        np.save(buffer, table)
        replace_file(path, buffer.getvalue())
    return table


def _batches(records: Sequence[Record], key: ReferenceKey, rows: int, *, with_reference: bool) -> Iterator[TreeBatch]:
    return make_eval_batches(
        records,
        chat=key.chat,
        model=key.model,
        text=key.text,
        batch_size=rows,
        with_reference=with_reference,
        answers="ranked",
    )


def attach_reference(table: Float[np.ndarray, "R 2 Q N"]) -> Callable[[TreeBatch], TreeBatch]:
    """Fills `reference_logps` of a batch from the table, by record, mode and question."""

    def attach(batch: TreeBatch) -> TreeBatch:
        one_shot = np.asarray(batch.reference_tile_mask).any(axis=1).astype(int)
        rows, questions = np.asarray(batch.record_index), np.asarray(batch.question_ids)
        found = table[np.maximum(rows, 0)[:, None], one_shot[:, None], np.maximum(questions, 0)]
        known = (rows[:, None] >= 0) & (questions >= 0)
        return dataclasses.replace(batch, reference_logps=np.where(known[..., None], found, 0.0).astype(np.float32))

    return attach
