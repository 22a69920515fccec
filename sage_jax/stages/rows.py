"""The stage `rows`: a run's data set as files of other trainers, so that they can be compared on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from sage_jax.config import ConfigError
from sage_jax.data import store
from sage_jax.data.records import Record
from sage_jax.data.row_export import Exported, export_split
from sage_jax.process import signals
from sage_jax.process.signals import Interrupted
from sage_jax.stages.run import Stage, StageCost


def write_rows(stage: Stage) -> StageCost:
    """Writes `<split>.jsonl` (TRL) and `adpl_<split>.json` of the run's data set, with their images, and tells numbers.

    Raises:
      ConfigError: The folder cannot be written.
      Interrupted: A signal has come; images that are written stay, and the same command goes on.
    """
    run, config, log = stage.run, stage.config.rows, stage.log
    folder = Path(config.folder).expanduser() if config.folder else run.folder.path / "rows"
    prepared = run.prepared
    if jax.process_index() > 0:
        return StageCost()
    for split in store.SPLITS:
        found = _written(stage, store.open_split(prepared, split), folder, split)
        if found.num_rows:
            log.line(f"{folder / split}.jsonl: {found.num_rows} preference rows of TRL, pairs: {config.pairs}")
        if found.without_pair:
            log.line(f"{found.without_pair} {split} questions have no two answers of different rank and no row")
        if found.num_items:
            log.line(f"{folder / f'adpl_{split}.json'}: {found.num_items} AD-PL items")
        if found.no_items:
            wanted = "one reference at most, and 5 questions with a verdict and 4 answers each"
            log.line(f"{found.no_items} {split} records are no AD-PL items, which have {wanted}")
    return StageCost()


def _written(stage: Stage, records: Sequence[Record], folder: Path, split: str) -> Exported:
    """Exports a split, with its progress; stops where a signal asks for it."""
    with stage.log.progress(len(records), unit=f"{split} record") as advance:

        def told(done: int) -> None:
            if signals.requested():
                raise Interrupted(f"stopped after {done} of {len(records)} {split} records")
            advance(done)

        language, pairs = stage.config.data.language, stage.config.rows.pairs
        try:
            return export_split(records, folder, split, pairs=pairs, language=language, advance=told)
        except OSError as error:
            raise ConfigError(
                f"rows.folder: {folder} cannot be written: {error.strerror or error}; name another folder"
            ) from None
