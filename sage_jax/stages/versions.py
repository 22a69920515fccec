"""Versions of a run: folders below it with what stage `learn` made, and a pointer to the one that answers.

RUN/                      the model as it was trained: version 0
RUN/versions/001/         a run folder of its own: config.json, tokenizer/, stages/learn/, calibration.json
RUN/versions/001/learned.json   before and after, and whether it is offered
RUN/versions/active.json  the version that `load`, `inspect` and all commands use; without the file, 0
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any, Final

from sage_jax.errors import UserError
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file

FOLDER: Final = "versions"
REPORT: Final = "learned.json"
_POINTER: Final = "active.json"
_NAME: Final = re.compile(r"\d{3,}")


class VersionError(UserError):
    """A version that is not there or cannot be used; the message names it and the way out."""


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a run.

    Attributes:
      number: 0 = as it was trained.
      folder: Its run folder.
      active: Whether it answers.
      report: Content of its `learned.json`; empty for version 0.
    """

    number: int
    folder: Path
    active: bool
    report: dict[str, Any]


def root_of(folder: Path | str) -> Path:
    """The run that a folder is a version of, or the folder itself."""
    path = Path(folder).expanduser()
    inside = path.parent.name == FOLDER and _NAME.fullmatch(path.name) is not None
    return path.parent.parent if inside else path


def version_folder(root: Path | str, number: int) -> Path:
    """Folder of a version: the run's for 0."""
    root = Path(root).expanduser()
    return root / FOLDER / f"{number:03}" if number else root


def active_version(root: Path | str) -> int:
    """The version of a run that answers; 0 = as it was trained.

    Raises:
      VersionError: The pointer is damaged, or the version that it names is gone.
    """
    path = Path(root).expanduser() / FOLDER / _POINTER
    try:
        number = open_json(path.read_text(encoding="utf-8"))["version"]
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError) as error:
        raise VersionError(f"{path}: {error}: choose a version with `sage-jax use RUN --version N`") from None
    if number and not (version_folder(root, number) / REPORT).is_file():
        raise VersionError(
            f"{path}: version {number} is not there any more: choose another with `sage-jax use RUN --version N`"
        )
    return number


def active_folder(folder: Path | str) -> Path:
    """Folder of the version that answers, of a run; a folder of a version is taken as it is."""
    path = Path(folder).expanduser()
    return path if root_of(path) != path else version_folder(path, active_version(path))


def versions_of(folder: Path | str) -> list[Version]:
    """The finished versions of a run, version 0 first.

    Raises:
      VersionError: There is no such run, or a file of it is damaged.
    """
    root = root_of(folder)
    if not (root / "config.json").is_file():
        raise VersionError(f"{root}: there is no run here: give the folder of a run")
    try:
        active = active_version(root)
    except VersionError:
        active = -1  # the list helps to choose another
    found = [Version(0, root, active == 0, {})]
    for number in version_numbers(root):
        path = version_folder(root, number)
        if (path / REPORT).is_file():
            found.append(Version(number, path, active == number, read_report(path)))
    return found


def version_numbers(root: Path) -> list[int]:
    """Numbers of all versions that have a folder, finished or not."""
    folder = root / FOLDER
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if _NAME.fullmatch(name))


def read_report(folder: Path) -> dict[str, Any]:
    """What `learn` wrote of a version.

    Raises:
      VersionError: It is damaged.
    """
    path = folder / REPORT
    try:
        return open_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VersionError(f"{path}: {error}: bring it back from a copy, or delete the folder {folder}") from None


def use_version(folder: Path | str, number: int) -> Version:
    """Makes a version the one that answers; the pointer is replaced as a whole, so that a reader sees one of the two.

    Raises:
      VersionError: There is no such version, or the pointer cannot be written.
    """
    root = root_of(folder)
    known = {version.number: version for version in versions_of(root)}
    if number not in known:
        raise VersionError(f"version {number}: {root} has {', '.join(map(str, known))}; `sage-jax versions` lists them")
    path = root / FOLDER / _POINTER
    try:
        content = sealed_json({"version": number, "since": time.time()})
        replace_file(path, json.dumps(content) + "\n")
    except OSError as error:
        raise VersionError(f"{path}: cannot be written: {error.strerror or error}") from None
    return dataclasses.replace(known[number], active=True)
