"""Records that are there already, stored as a data set: what a stage reads, without a source of files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from sage_jax.data.question_verdicts import QuestionVerdicts
from sage_jax.data.records import Record
from sage_jax.data.store import COUNTS_FILE, VERDICTS_FILE, Adpl, PreparedData, encode_record
from sage_jax.data.trees.encode import RecordCounts
from sage_jax.process.files import new_folder
from sage_jax.verdict import Language


def store_records(records: Sequence[Record], folder: Path, *, language: Language = "en") -> PreparedData:
    """Stores records as the training split of a data set, or finds the same ones stored.

    Args:
      records: One or more.
      folder: Gets a folder for each content.
      language: What they are written in.

    Returns:
      The data set, without a tokenizer.
    """
    revision = records_digest(records)
    path = folder / revision[:24]
    if not path.is_dir():
        counts, verdicts = RecordCounts(), QuestionVerdicts()
        for record in records:
            counts = counts.including(record)
            verdicts.add(record, language=language)
        with contextlib.suppress(FileExistsError), new_folder(path) as partial:
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download; there is none
                Adpl({"train": records}, data_dir=str(partial / "tfds")).download_and_prepare()
            numbers = {"records": len(records), **dataclasses.asdict(counts)}
            none = {"records": 0, **dataclasses.asdict(RecordCounts())}
            (partial / COUNTS_FILE).write_text(json.dumps({"train": numbers, "test": none}))
            (partial / VERDICTS_FILE).write_text(json.dumps(verdicts.counts, ensure_ascii=False))
    return PreparedData(path, revision, None, len(records), 0)


def records_digest(records: Iterable[Record]) -> str:
    """SHA-256 of all that records hold, in their order."""
    found = hashlib.sha256()
    for record in records:
        for name, value in sorted(encode_record(record).items()):
            parts = value if isinstance(value, list) else [value]
            for part in parts:
                content = part.encode() if isinstance(part, str) else part
                found.update(f"{name} {len(content)} ".encode() + content)
    return found.hexdigest()
