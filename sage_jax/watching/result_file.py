"""The results of a watched folder as a file of JSON lines, which may be moved away and begun anew at any time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from sage_jax.watching.journal import WatchError, WatchJournal

_CURSOR: Final = "written"
_AT_ONCE: Final = 500
_TAIL_BYTES: Final = 2**16


class ResultFile:
    """Appends the journal's results, each once and whole, after a kill too.

    Args:
      path: The file. Moved away, it is begun anew with the results that follow.
      journal: Its results.

    Raises:
      WatchError: The file cannot be written.
    """

    def __init__(self, path: Path, journal: WatchJournal) -> None:
        self._path, self._journal = path, journal
        try:
            in_file = _last_number(path)
        except OSError as error:
            raise self._fault(error) from None
        self._last = max(journal.cursor(_CURSOR) or 0, in_file)

    def catch_up(self) -> int:
        """Appends what is not there yet; gives the number of lines.

        Raises:
          WatchError: The file cannot be written.
        """
        number = 0
        while results := self._journal.results_after(self._last, _AT_ONCE):
            text = "".join(f"{numbered(result.number, result.line)}\n" for result in results)
            try:
                with self._path.open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._fault(error) from None
            self._last = results[-1].number
            self._journal.move_cursor(_CURSOR, self._last)
            number += len(results)
        return number

    def _fault(self, error: OSError) -> WatchError:
        return WatchError(
            f"watch.output: {self._path} cannot be written: {error.strerror or error}; what was found is kept, and "
            "written once it can be"
        )


def numbered(number: int, line: str) -> str:
    """A result as JSON with its number first."""
    return f'{{"number": {number}, {line.removeprefix("{")}'


def _last_number(path: Path) -> int:
    """The number of a file's last whole line; a line that a kill tore is cut off. 0 without any."""
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        length = _TAIL_BYTES
        while True:
            file.seek(max(0, size - length))
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            lines = whole.splitlines()
            if len(lines) > 1 or length >= size:
                break
            length *= 2
        if len(whole) < len(tail):
            file.truncate(size - len(tail) + len(whole))
    try:
        number = json.loads(lines[-1])["number"]
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if isinstance(number, int) else 0
