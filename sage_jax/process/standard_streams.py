"""Standard input, output and error of a program, whatever they were opened to: a pipe that closes stops no work."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, Final

_READ, _OUTPUT, _ERROR = range(3)
_BLOCK: Final = 1 << 16


class _Descriptor(io.RawIOBase):
    """Writes to a file descriptor until that fails; what comes after is dropped."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        while self.fault is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self.fault = error
        return len(data)


def run_with_any_output(program: Callable[[], int]) -> int:
    """Runs a program whose output may be closed, full, or in an encoding that has few letters.

    Descriptors that are not open are opened to nothing: the next file would get their numbers, and messages of
    libraries would be written into it. Letters that the encoding lacks are written as escapes. The program works to
    its end though nobody takes its output.

    Returns:
      Exit status of the program; 2 where it came to its end, but its output could not be written.
    """
    for number in (_READ, _OUTPUT, _ERROR):
        _open_if_closed(number)
    output, _ = (_settle(name, number) for name, number in (("stdout", _OUTPUT), ("stderr", _ERROR)))
    status = program()
    sys.stdout.flush()
    if output.fault is not None and status == 0:
        why = output.fault.strerror
        print(f"error: standard output: {why}: all work is done, but its tables are not shown", file=sys.stderr)
        return 2
    return status


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _settle(name: str, number: int) -> _Descriptor:
    """Puts a stream of ours in place of `sys`' own; its encoding stays."""
    old = getattr(sys, name)
    if old is not None:
        with contextlib.suppress(OSError):
            old.flush()
    encoding = getattr(old, "encoding", None) or "utf-8"
    raw = _Descriptor(number)
    buffered = io.BufferedWriter(raw, _BLOCK)
    by_line = number == _ERROR or raw.isatty()
    setattr(sys, name, io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=by_line))
    return raw
