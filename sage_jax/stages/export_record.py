"""What a run has exported where: a command that was stopped behind its export finds it done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file

FILE: Final = "exported.json"


def note_export(run_dir: Path, folder: Path, written: Path, *, options: str, made_of: str) -> None:
    """Notes an export that is whole and takes its name next: a kill on either side of that loses nothing.

    Args:
      folder: The name that it takes.
      written: Where it is now.
      options, made_of: Hashes of how, and of all that it was made of.
    """
    record = {"folder": str(folder.absolute()), "options": options, "made_of": made_of, "files": _files(written)}
    replace_file(run_dir / FILE, json.dumps(sealed_json(record), indent=1) + "\n")


def is_exported(run_dir: Path, folder: Path, *, options: str, made_of: str | None = None) -> bool:
    """Whether a folder is what this run has exported there, by names and sizes of its files.

    Args:
      made_of: None = whatever it was made of.
    """
    try:
        record = open_json((run_dir / FILE).read_text(encoding="utf-8"))
        noted = (record["folder"], record["options"], record["made_of"], record["files"])
    except (OSError, ValueError, KeyError):  # none, or a damaged one: the folder is then somebody's
        return False
    return noted == (str(folder.absolute()), options, made_of or record["made_of"], _files(folder))


def _files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
