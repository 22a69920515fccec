"""What the machine lacks is told in one message, whichever library ran into it; other exceptions stay what they are."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_jax.errors import ConfigError
from sage_jax.process.shortages import ShortageError, as_shortage, lacking, raise_if_lacking, told
from sage_jax.process.signals import Interrupted

TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "step/0" in OCDBT database at local file "/run/ocdbt/": Failed writing: '
    "\"/run/ocdbt/d/0f\": Failed to write 95453 bytes to file 14: No space left on device [os_error_code='28']"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    (
        (OSError(errno.ENOSPC, "No space left on device", "/run/a.json"), "/run/a.json: No space left on device: make"),
        (OSError(errno.EMFILE, "Too many open files", b"/x"), "/x: Too many open files: raise the limit on open files"),
        (OSError(errno.EROFS, "Read-only file system", 3), "Read-only file system: make it writable"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied: give this user the right"),
        (OSError(errno.EFBIG, "File too large"), "File too large: raise the limit on the size of files (ulimit -f)"),
        (MemoryError(), "Cannot allocate memory: free memory"),
        (ValueError(TENSORSTORE), "/run/ocdbt/d/0f: No space left on device"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."), "Cannot allocate memory"),
        (RuntimeError("writer: [Errno 28] full"), "No space left on device"),
        (RuntimeError("can't start new thread"), "raise the limit on processes and threads"),
    ),
)
def test_a_shortage_is_told_with_the_file_and_the_way_out(error: Exception, expected: str) -> None:
    with pytest.raises(ShortageError) as found, told():
        raise error
    assert str(found.value).startswith(expected) or expected in str(found.value)
    assert str(found.value).endswith("Finished work stays, and the same command goes on.")
    assert found.value.__cause__ is error


def test_it_is_found_in_causes_contexts_and_groups() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/run/x")
    outer = RuntimeError("the save failed")
    outer.__cause__ = full
    assert lacking(ExceptionGroup("several", [KeyError("a"), outer])) == errno.ENOSPC
    try:
        try:
            raise full
        finally:
            raise KeyError("while closing")
    except KeyError as error:
        assert str(as_shortage(error)).startswith("/run/x: No space left")
    loop = RuntimeError("a")
    loop.__cause__ = RuntimeError("b")
    loop.__cause__.__cause__ = loop
    assert lacking(loop) is None


@pytest.mark.parametrize(
    "error", (KeyError("a"), FileNotFoundError(errno.ENOENT, "No such file", "/x"), ValueError("28"), OSError("odd"))
)
def test_other_exceptions_stay(error: Exception) -> None:
    with pytest.raises(type(error)) as found, told():
        raise error
    assert found.value is error
    raise_if_lacking(error)


def test_messages_of_our_own_and_stops_pass_whatever_they_come_of() -> None:
    for error in (ConfigError("run_dir: full"), Interrupted("stopped")):
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(type(error)) as found, told():
            raise error
        assert found.value is error


def test_a_lack_of_permission_may_be_left_to_the_caller() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/x")
    raise_if_lacking(denied, permission=False)
    with pytest.raises(ShortageError, match="/x: Permission denied"):
        raise_if_lacking(denied)
    with pytest.raises(ShortageError, match="/data/a.png: Too many open files"):
        raise_if_lacking(RuntimeError("[Errno 24] none left"), Path("/data/a.png"), permission=False)


def test_a_file_that_cannot_be_opened_for_want_of_handles_is_no_damaged_one(tmp_path: Path) -> None:
    """Else a whole data set would be deleted and built again."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from sage_jax.process.checksums import damaged, write_checksums\n"
        "folder = Path(sys.argv[1]); (folder / 'a').write_text('a'); write_checksums(folder)\n"
        "assert damaged(folder) == []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try: damaged(folder)\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(f"ShortageError {tmp_path / 'checksums.json'}: {os.strerror(errno.EMFILE)}")
