"""Log-probabilities under the reference policy: computed once for a data set, kept by what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from sage_jax.axes import Float
from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.chat import Chat
from sage_jax.data.pipeline import make_eval_batches
from sage_jax.data.records import Record
from sage_jax.files import replace_file
from sage_jax.generate import Responder
from sage_jax.run_log import RunLog


def reference_logps(
    records: Sequence[Record],
    *,
    responder: Responder,
    weights_digest: str,
    data_revision: str,
    chat: Chat,
    model: ModelConfig,
    text: TextConfig,
    batch_size: int,
    folder: Path,
    run: RunLog,
) -> Float[np.ndarray, "R 2 Q N"]:
    """Summed log-probability of every answer of every record, zero-shot (0) and one-shot (1), in nats.

    Read from `folder` where it was computed before from the same weights, records, template and shapes.
    """
    template = chat.tokenizer_digest()
    key = json.dumps([weights_digest, data_revision, template, dataclasses.asdict(model), dataclasses.asdict(text)])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    if path.exists():
        run.line(f"reference log-probabilities: found in {path.name}")
        return np.load(path)
    rows = responder.rows(batch_size)
    per_mode = []
    with run.progress(2 * -(-len(records) // rows), unit="reference batch") as advance:
        for with_reference in (False, True):
            batches = make_eval_batches(
                records,
                chat=chat,
                model=model,
                text=text,
                batch_size=rows,
                with_reference=with_reference,
                answers="ranked",
            )
            parts = []
            for batch in batches:
                parts.append(responder.answer_logps(batch))
                advance(len(parts) + (len(per_mode[0]) if per_mode else 0))
            per_mode.append(parts)
    table = np.stack([np.concatenate(parts)[: len(records)] for parts in per_mode], axis=1)
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        np.save(buffer, table)
        replace_file(path, buffer.getvalue())
    return table


def attach_reference(table: Float[np.ndarray, "R 2 Q N"]) -> Callable[[TreeBatch], TreeBatch]:
    """Fills `reference_logps` of a batch from the table, by record, mode and question."""

    def attach(batch: TreeBatch) -> TreeBatch:
        one_shot = np.asarray(batch.reference_tile_mask).any(axis=1).astype(int)
        rows, questions = np.asarray(batch.record_index), np.asarray(batch.question_ids)
        found = table[np.maximum(rows, 0)[:, None], one_shot[:, None], np.maximum(questions, 0)]
        known = (rows[:, None] >= 0) & (questions >= 0)
        return dataclasses.replace(batch, reference_logps=np.where(known[..., None], found, 0.0).astype(np.float32))

    return attach
