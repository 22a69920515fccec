"""Output files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_MARK: Final = "sage_jax-partial-"
_TEMPORARY: Final = re.compile(rf"\..+\.{_MARK}[a-z0-9_]{{8}}")
"""Names that `tempfile` gives with `temporary_prefix`; no file of anybody else's has one."""


def temporary_prefix(name: str) -> str:
    """Prefix of the temporary name of what will be a file or folder of a name."""
    return f".{name}.{_MARK}"


def replace_file(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Writes a file under a temporary name beside `path` and renames it, making the folder if there is none.

    A reader sees the old content or the new, never a part; a failed write leaves the old file as it was. Content that
    is too large for memory comes in parts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (data,) if isinstance(data, str | bytes) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path.name))
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part.encode() if isinstance(part, str) else part)
        os.chmod(temporary, 0o644)  # mkstemp gives 0600, which would keep a report from the people it is for
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writes left under their temporary names, in a folder that nobody else writes into."""
    for parent, folders, files in os.walk(folder):
        for name in [each for each in folders if _TEMPORARY.fullmatch(each)]:
            shutil.rmtree(Path(parent) / name, ignore_errors=True)
            folders.remove(name)
        for name in files:
            if _TEMPORARY.fullmatch(name):
                (Path(parent) / name).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, made if there is none, for this process alone; the system lets go of it when the process ends.

    Raises:
      BlockingIOError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, under a temporary name beside `path`, that is renamed to it at the end of the block.

    A block that fails leaves nothing.

    Raises:
      FileExistsError: There is something at `path`: before the block, or since.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=temporary_prefix(path.name)))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp gives 0700
        if path.exists():  # a rename would replace an empty folder
            raise FileExistsError(f"{path} is there already")
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
