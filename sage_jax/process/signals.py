"""SIGINT and SIGTERM as a flag: set from the first moment of the program, read where work can stop and go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)
DEFAULT_AFTER: Final = "what is under way"


class Interrupted(Exception):
    """Work was stopped by a signal, after what it had done was saved."""


class StopSignals:
    """Notes SIGINT and SIGTERM while it is entered; a second signal raises KeyboardInterrupt at once.

    A flag and no exception: an exception may come up in a callback that swallows it, and the program would work on as
    if no one had asked. Entered within another one, it is that one: the signals of a program are noted in one place.
    The handlers of before are back on leaving. Outside the main thread, which alone may set handlers, none are set.
    """

    _entered: StopSignals | None = None

    def __init__(self) -> None:
        self._requested = False
        self._say: Callable[[str], None] = _to_terminal
        self._after = DEFAULT_AFTER
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._requested

    def __enter__(self) -> StopSignals:
        if StopSignals._entered is not None or threading.current_thread() is not threading.main_thread():
            return StopSignals._entered or self
        StopSignals._entered = self
        self._handlers = {number: signal.getsignal(number) for number in NUMBERS}
        self.renew()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._handlers:
            StopSignals._entered = None
        self._handlers = {}

    def renew(self) -> None:
        """Sets the handlers again, after a library that sets its own."""
        for number in self._handlers:
            signal.signal(number, self._note)

    def announce(self, say: Callable[[str], None], after: str) -> tuple[Callable[[str], None], str]:
        """Sets who tells the user of a signal and what is finished first; gives what was set before."""
        before = self._say, self._after
        self._say, self._after = say, after
        return before

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        line = f"{signal.Signals(number).name}: stopping after {self._after}; again to abort"
        try:
            self._say(line)
        except RuntimeError:  # the signal came in the middle of a write to the same stream
            _to_terminal(line)


def requested() -> bool:
    """Whether a signal has asked the program to stop."""
    return StopSignals._entered is not None and StopSignals._entered.requested


def _to_terminal(line: str) -> None:
    os.write(2, f"{line}\n".encode())  # no buffer that the signal could have come in the middle of
