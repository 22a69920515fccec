"""What the machine lacks: room, permission, file handles, memory. One message each, whichever library ran into it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sage_jax.errors import UserError
from sage_jax.process.signals import Interrupted

_CURES: Final = {
    errno.ENOSPC: "make room on that disk, or name a folder on another one",
    errno.EDQUOT: "make room within the quota, or name a folder on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "give this user the right to it, or name another folder",
    errno.EPERM: "give this user the right to it, or name another folder",
    errno.EROFS: "make it writable, or name a folder on another disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n 1024)",
    errno.ENFILE: "raise the limit on open files of the system, or close other programs",
    errno.EIO: "the disk or its connection fails: look at it before more is written",
    errno.ENOMEM: "free memory, raise its limit (ulimit -v), or compute less at once (batch_size)",
    errno.EAGAIN: "raise the limit on processes and threads (ulimit -u), or free memory",
}
_IN_TEXT: Final = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")
_MEMORY: Final = re.compile(r"RESOURCE_EXHAUSTED: .*[Oo]ut of memory|std::bad_alloc|can't start new thread")
_PATH: Final = re.compile(r"""["'](/[^"'\n]+)["']""")
_BY_TEXT: Final = {os.strerror(number): number for number in _CURES if number != errno.EAGAIN}
_GO_ON: Final = "Finished work stays, and the same command goes on."


class ShortageError(UserError):
    """The machine lacks something; the message says what, at which file, and the way out."""


def lacking(error: BaseException) -> int | None:
    """The `errno` of what the machine lacks, where an exception comes of that; None of any other.

    Libraries hide the system's error: in a cause, in a group, or in the text of an exception of their own.
    """
    found = (_number(each) for each in _chain(error))
    return next((number for number in found if number in _CURES), None)


def as_shortage(error: BaseException, place: str = "") -> ShortageError | None:
    """The message for an exception that comes of a shortage; None of any other.

    Args:
      place: The file, where the exception does not name it.
    """
    number = lacking(error)
    if number is None:
        return None
    place = next(filter(None, map(_place, _chain(error))), place)
    return ShortageError(f"{place}{': ' if place else ''}{os.strerror(number)}: {_CURES[number]}. {_GO_ON}")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns exceptions that come of a shortage into one that a user can mend.

    Raises:
      ShortageError: The machine lacks something.
    """
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        shortage = as_shortage(error)
        if shortage is None:
            raise
        raise shortage from error


def raise_if_lacking(error: BaseException, place: Path | str = "", *, permission: bool = True) -> None:
    """Where an exception comes of a shortage, says so; else what it says of the content of a file may be true.

    To be called before a file that cannot be read is taken for a damaged one, and deleted or made again.

    Args:
      place: The file, where the exception does not name it.
      permission: Whether a lack of permission counts.

    Raises:
      ShortageError: The machine lacks something.
    """
    if not permission and lacking(error) in (errno.EACCES, errno.EPERM):
        return
    shortage = as_shortage(error, str(place))
    if shortage is not None:
        raise shortage from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, those in its group, and what they come of, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        waiting += [found for found in (*inner, each.__cause__, each.__context__) if found is not None]


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if _MEMORY.search(text):
        return errno.EAGAIN if "thread" in text else errno.ENOMEM
    if found := _IN_TEXT.search(text):
        return int(found[1] or found[2])
    return next((number for said, number in _BY_TEXT.items() if said in text), None)


def _place(error: BaseException) -> str:
    """The file that an exception is about, as far as it says."""
    if isinstance(error, OSError) and error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    found = _PATH.findall(str(error))
    return found[-1] if found else ""
