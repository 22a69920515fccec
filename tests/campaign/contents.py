"""What a run leaves, as a hash of each thing that must not depend on when it was stopped."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

import jax
import numpy as np
import orbax.checkpoint as ocp

from sage_jax.data.store import Split, StoredRecords, encode_record

_OF_ITS_TIME: Final = ("tensorboard", "log.txt", ".lock")
"""Names of what says when and how often a run was started."""
_ARRAYS: Final = ("final", "state")
"""Folders of arrays, whose files have random names."""
_MEASURES: Final = ("seconds_per_step", "input_wait")
"""Fields of rows of metrics that measure the machine."""
_WRITTEN: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d")
"""Minute of a report."""


def contents(folder: Path) -> dict[str, str]:
    """Hashes of every array of the parameters and checkpoints, and of every other file byte by byte.

    Of metrics and the summary, what measures the machine is left out, of a report the minute when it was written, of an
    endpoint's replies their order.

    Args:
      folder: Holds `run` and `cache`.
    """
    found: dict[str, str] = {}
    for top in ("run", "cache"):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            if any(part in _OF_ITS_TIME for part in path.relative_to(folder).parts):
                continue
            if path.is_dir():
                if path.name in _ARRAYS and (path / "_METADATA").exists():
                    found |= {f"{name}: {leaf}": value for leaf, value in _arrays(path).items()}
            elif ".array_record" in name:
                found[name] = _records(path)
            elif not _is_of_arrays(path.relative_to(folder)):
                found[name] = hashlib.sha256(_bytes(path)).hexdigest()
    return found


def _is_of_arrays(path: Path) -> bool:
    return "checkpoints" in path.parts or any(part in _ARRAYS for part in path.parts[:-1])


def _arrays(folder: Path) -> dict[str, str]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute())
    found: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        about = f"{array.dtype} {array.shape} ".encode()
        found[jax.tree_util.keystr(path)] = hashlib.sha256(about + array.tobytes()).hexdigest()
    return found


def _records(path: Path) -> str:
    """Hash of a stored split's records, whose fields are in no order on the disk."""
    split: Split = "train" if "-train." in path.name else "test"
    records = StoredRecords(next(each for each in path.parents if each.name == "tfds").parent, split)
    return hashlib.sha256(
        "\n".join(repr(sorted(encode_record(record).items())) for record in records).encode()
    ).hexdigest()


def _bytes(path: Path) -> bytes:
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return json.dumps([{key: row[key] for key in row if key not in _MEASURES} for row in rows]).encode()
    content = path.read_bytes()
    if path.name == "summary.json":  # of a run, or of a benchmark, which measures no time
        summary = json.loads(content)
        return json.dumps(summary.get("metrics", summary)).encode()
    if path.name == "replies.jsonl":  # of an endpoint that is asked several things at a time, as they came
        return b"".join(sorted(content.splitlines()))
    return _WRITTEN.sub(b"", content) if path.suffix == ".html" else content
