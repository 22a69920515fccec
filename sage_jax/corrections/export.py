"""Corrections as files of other trainers: AD-PL's JSON and TRL's preference rows."""

from __future__ import annotations

from pathlib import Path

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.groups import corrected_images, group_records
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.row_export import Exported, Pairs, export_split

SPLIT = "corrections"


def export_corrections(
    store: CorrectionStore, vocabulary: Vocabulary, folder: Path | str, *, pairs: Pairs = "all", seed: int = 0
) -> Exported:
    """Writes the standing corrections of a store: `corrections.jsonl` (TRL), `adpl_corrections.json`, and `images/`.

    Args:
      store: The store.
      vocabulary: Words of objects and defects.
      folder: Gets the files; made if there is none.
      pairs: As in `export_split`.
      seed: Seed of wording and choice.

    Raises:
      CorrectionFault: There is no correction, one cannot be used, or the folder cannot be written.
    """
    images = corrected_images(store, vocabulary)
    if not images:
        raise CorrectionFault(f"{store.path}: nobody has corrected anything yet: there is nothing to export")
    folder = Path(folder).expanduser()
    try:
        return export_split(group_records(images, vocabulary, seed=seed), folder, SPLIT, pairs=pairs)
    except OSError as error:
        raise CorrectionFault(f"{folder}: cannot be written: {error.strerror or error}; name another folder") from None
