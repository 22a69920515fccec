"""Settings of other libraries: their flags parsed, their messages that do not concern a user left out."""

from __future__ import annotations

import contextlib
import logging as standard_logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


def quieten_libraries() -> None:
    """Turns off messages at import that do not concern a user, such as that torch is not installed.

    It takes effect for libraries that are not imported yet. Variables that the user has set stay.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    if sys.unraisablehook is not _unraisable:
        sys.unraisablehook = _unraisable


def _unraisable(told: Any) -> None:
    """Tells an exception that nobody can catch, as Python does by itself.

    Left out is what follows a failure that is raised itself: writes of a checkpoint beside a failed one come back to a
    loop that has ended, each with a traceback of its own; a loop that found no file handle left is deleted half made.
    """
    error = told.exc_value
    ended = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    half_made = isinstance(error, AttributeError) and "EventLoop' object has no attribute '_ssock'" in str(error)
    if not (ended or half_made):
        sys.__unraisablehook__(told)


def settle_libraries() -> None:
    """Quiet libraries, and absl's flags parsed, which Grain's worker processes ask for."""
    quieten_libraries()
    from absl import flags, logging

    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(_is_not_raised_later)
    standard_logging.getLogger("asyncio").addFilter(_is_not_raised_later)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Lets a library be imported as where torch is not installed, unless torch is there already.

    TensorBoard's writer imports it where it finds it, which takes seconds, and needs it for nothing written here.
    """
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NoTorch(MetaPathFinder):
    """A finder of modules that says of torch that there is none."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError("torch is left out of this import", name=fullname)


def _is_not_raised_later(record: standard_logging.LogRecord) -> bool:
    """Whether a message stands for itself.

    Orbax logs the exceptions of its threads, and raises them afterwards too. Of writes that fail together it raises the
    first, and asyncio tells of each other one.
    """
    beside = "exception was never retrieved" in record.getMessage() and "orbax" in record.getMessage()
    return not (record.exc_info and ("orbax" in record.pathname or beside))
