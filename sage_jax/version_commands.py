"""Commands of `sage-jax` that compute nothing: the versions of a run, and its corrections as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from cyclopts import App

corrections: Final = App(name="corrections", help="What people said of a run's inspections.")


@corrections.command(name="export")
def export_of_corrections(run: str, /, *, to: str, pairs: Literal["all", "extreme"] = "all") -> int:
    """Write the corrections of a run as AD-PL JSON and as preference rows of TRL.

    Args:
      run: A run folder.
      to: Folder of the files.
      pairs: `all` writes each better answer with each worse, `extreme` the best with the worst.
    """
    from sage_jax.corrections.export import SPLIT, export_corrections
    from sage_jax.corrections.store import store_of
    from sage_jax.data.adpl.facts import load_vocabulary
    from sage_jax.stages.open_model import config_of
    from sage_jax.stages.versions import root_of

    config = config_of(run)
    found = export_corrections(
        store_of(root_of(config.run_dir)), load_vocabulary(config.data.vocabulary), to, pairs=pairs
    )
    print(f"{Path(to) / SPLIT}.jsonl: {found.num_rows} preference rows of TRL")
    print(f"{Path(to) / f'adpl_{SPLIT}.json'}: {found.num_items} AD-PL items")
    return 0


def versions(run: str, /) -> int:
    """List the versions of a run, with what each brought.

    Args:
      run: A run folder.
    """
    from sage_jax.stages.learnt import print_versions
    from sage_jax.stages.versions import versions_of

    print_versions(versions_of(run))
    return 0


def use(run: str, /, *, version: int) -> int:
    """Choose the version of a run that answers; 0 is the model as it was trained.

    Args:
      run: A run folder.
      version: Number of the version; `sage-jax versions` lists them.
    """
    from sage_jax.stages.versions import use_version

    found = use_version(run, version)
    print(f"version {found.number} answers: {found.folder}")
    return 0
