"""Checksums of what a run reads again: a damaged file is found, never read as if it were whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking

FILE: Final = "checksums.json"
"""The list of a folder's files and their SHA-256, in the folder itself, with a checksum of its own."""

_CHECKSUM: Final = "checksum"
_FILES: Final = "files"
_SHA256: Final = re.compile("[0-9a-f]{64}")
_TRAILER: Final = b"sha256"
_NO_NPZ: Final = (
    *(ValueError, KeyError, TypeError, EOFError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile),
    RuntimeError,  # of a flag that says that a file is encrypted, or packed in a way that is not known
)
"""What a damaged .npz raises."""


def write_checksums(folder: Path, names: Iterable[str] | None = None, *, file: str = FILE) -> None:
    """Writes the list of a folder that is complete.

    Args:
      names: Files, relative to the folder; None = every file below it.
      file: Name of the list.
    """
    found = names if names is not None else (str(path.relative_to(folder)) for path in _files(folder))
    sums = {name: file_sum(folder / name) for name in sorted(found)}
    replace_file(folder / file, json.dumps(sealed_json({_FILES: sums}), indent=2) + "\n")


def damaged(folder: Path, *, listed: bool = False, file: str = FILE) -> list[str]:
    """The files of a folder that are not as they were listed, missing ones too.

    Args:
      listed: Whether the folder was listed for certain, so that a missing list is a damage as well.
      file: Name of the list.

    Raises:
      ShortageError: They cannot be read for want of a file handle or of permission.
    """
    path = folder / file
    try:
        if not listed and not os.path.lexists(path):
            return []
        sums = _listed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise_if_lacking(error, path)
        return [file]
    return [name for name, value in sums.items() if not (_is_inside(name) and _is_whole(folder / name, value))]


def _is_inside(name: str) -> bool:
    """Whether a listed name stays in its folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _listed(text: str) -> dict[str, str]:
    """The checksums of a list, which has one itself but where it was written before lists had."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    if isinstance(content, dict) and content and all(map(_SHA256.fullmatch, map(str, content.values()))):
        return content
    return open_json(text)[_FILES]


def sealed_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with a checksum of itself, ready for JSON."""
    return {**content, _CHECKSUM: _sum_of_json(json.loads(json.dumps(content)))}


def open_json(text: str, *, always: bool = True) -> dict[str, Any]:
    """The content that was sealed.

    Args:
      always: Whether content without a checksum is refused, which earlier versions have written of some files.

    Raises:
      ValueError: It is no JSON object, or not what was sealed.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if _CHECKSUM not in content and not always:
        return content
    if _CHECKSUM not in content:
        raise ValueError("it has no checksum; an earlier version may have written it")
    if content.pop(_CHECKSUM) != _sum_of_json(content):
        raise ValueError("its checksum is not that of its content")
    return content


def sealed_bytes(content: bytes) -> bytes:
    """The content with its checksum behind it."""
    return content + _TRAILER + hashlib.sha256(content).digest()


def open_bytes(content: bytes) -> bytes:
    """The content that was sealed.

    Raises:
      ValueError: It is not what was sealed.
    """
    size = len(_TRAILER) + hashlib.sha256().digest_size
    inner, trailer = content[:-size], content[-size:]
    if trailer != _TRAILER + hashlib.sha256(inner).digest():
        raise ValueError("its checksum is not that of its content")
    return inner


def read_npz(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz, each held against ZIP's CRC.

    Raises:
      OSError: It cannot be read.
      ValueError: It is damaged, or lacks one of them.
    """
    content = path.read_bytes()  # so that whatever the reader raises is of what they say, and not of the disk
    try:
        with np.load(io.BytesIO(content)) as stored:
            return [stored[name] for name in names]
    except _NO_NPZ as error:
        raise ValueError(f"it cannot be read as .npz ({str(error) or type(error).__name__})") from None


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)


def file_sum(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, expected: str) -> bool:
    try:
        return path.is_file() and file_sum(path) == expected  # a device has no end
    except (OSError, ValueError) as error:
        raise_if_lacking(error, path)
        return False


def _sum_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
