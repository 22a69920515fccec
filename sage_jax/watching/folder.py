"""A folder looked at again and again: which of its images are there, new, and no longer written to."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sage_jax.data.images import SUFFIXES

_SUFFIXES: Final = tuple(os.fsencode(suffix) for suffix in SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Settled:
    """A new image that nobody writes to any more.

    Attributes:
      name: Its path below the folder.
      path: Its path.
      stamp: Its size and time of change.
      changed: Its time of change, ns.
    """

    name: bytes
    path: Path
    stamp: str
    changed: int


class WatchedFolder:
    """A folder with its subfolders; hidden files and folders do not count, nor links to folders.

    It is polled, for no message of a change comes from a network drive.

    Args:
      folder: The folder.
      dealt_with: Stamps of files that are done, by their path below the folder.
      settle_seconds: Time for which a file must stay as it is.
      clock: Gives seconds.
    """

    def __init__(
        self,
        folder: Path,
        dealt_with: Mapping[bytes, str],
        settle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._dealt_with = dict(dealt_with)
        self._settle_seconds, self._clock = settle_seconds, clock
        self._since: dict[bytes, tuple[str, float]] = {}

    def look(self) -> list[Settled]:
        """The new files that have settled, the oldest first; each time, until they are `done`.

        Raises:
          OSError: The folder cannot be read; what is known of its files stays.
        """
        now, settled, changing = self._clock(), list[Settled](), dict[bytes, tuple[str, float]]()
        for name, path, state in _files(os.fsencode(self.folder)):
            stamp = stamp_of(state)
            if self._dealt_with.get(name) == stamp:
                continue
            before = self._since.get(name)
            since = before[1] if before is not None and before[0] == stamp else now
            changing[name] = stamp, since
            if now - since >= self._settle_seconds:
                settled.append(Settled(name, Path(os.fsdecode(path)), stamp, state.st_mtime_ns))
        self._since = changing
        return sorted(settled, key=lambda each: (each.changed, each.name))

    def done(self, name: bytes, stamp: str) -> None:
        """Notes that a file is done; changed, it is new again."""
        self._dealt_with[name] = stamp

    def age(self, file: Settled) -> float:
        """Seconds since a file was first seen as it is."""
        stamp, since = self._since.get(file.name, ("", self._clock()))
        return self._clock() - since if stamp == file.stamp else 0.0


def stamp_of(state: os.stat_result) -> str:
    """Size and time of change of a file."""
    return f"{state.st_size} {state.st_mtime_ns}"


def _files(folder: bytes, below: bytes = b"") -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Image files of a folder and its subfolders: path below the folder, path, state.

    A file that goes while one looks is left out, and so is a subfolder; the folder itself must be there.
    """
    for entry in os.scandir(folder):
        if entry.name.startswith(b"."):
            continue
        name = below + entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, name + b"/")
            elif entry.name.lower().endswith(_SUFFIXES) and entry.is_file():
                yield name, entry.path, entry.stat()
        except OSError:
            continue
