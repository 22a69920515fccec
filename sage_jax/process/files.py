"""Output files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_MARK: Final = "sage_jax-partial-"
_TEMPORARY: Final = re.compile(rf"\..+\.{_MARK}[a-z0-9_]{{8}}")
"""Names of files and folders under way; no file of anybody else's has one."""


def temporary_prefix(name: str) -> str:
    """Prefix of the temporary name of what will be a file or folder of a name."""
    return f".{name}.{_MARK}"


def temporary_folder(path: Path) -> Path:
    """A new folder beside `path`, to be renamed to it, with the permissions that the umask leaves."""
    temporary = _temporary(path)
    temporary.mkdir()
    return temporary


def _temporary(path: Path) -> Path:
    """A name beside `path` that nothing has. `tempfile` would let nobody else read what it makes."""
    return path.parent / f"{temporary_prefix(path.name)}{secrets.token_hex(4)}"


def replace_file(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Writes a file under a temporary name beside `path` and renames it, making the folder if there is none.

    A reader sees the old content or the new, never a part; a failed write leaves the old file as it was. Content that
    is too large for memory comes in parts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (data,) if isinstance(data, str | bytes) else data
    temporary = _temporary(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part.encode() if isinstance(part, str) else part)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if (
            isinstance(error, OSError) and error.errno is not None and error.filename is None
        ):  # a write does not say where
            error.filename = str(path)
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
    temporary = temporary_folder(path)
    try:
        yield temporary
        if path.exists():  # a rename would replace an empty folder
            raise FileExistsError(f"{path} is there already")
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
