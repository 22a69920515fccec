"""Programs whose output is closed, full, unread or in few letters: they end in order, and write nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORKS = (
    "import sys; from pathlib import Path; from sage_jax.process.standard_streams import run_with_any_output\n"
    "def work():\n"
    "    print('\\u65e5\\u672c \\u2212 table'); sys.stdout.flush(); print('line', file=sys.stderr)\n"
    "    with open(sys.argv[1], 'w') as file:\n"
    "        file.write(f'done {file.fileno()}')\n"
    "    return 0\n"
    "sys.exit(run_with_any_output(work))"
)


def run(folder: Path, *, before: Sequence[str] = (), **options: Any) -> tuple[int, str, str, str]:
    """Exit status, standard output and error, and what was written to the file."""
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    path = folder / "work.txt"
    ended = subprocess.run([*before, sys.executable, "-c", WORKS, str(path)], check=False, **given)
    output, error = ((part or b"").decode() for part in (ended.stdout, ended.stderr))
    return ended.returncode, output, error, path.read_text()


def test_an_open_output_is_written_as_ever(tmp_path: Path) -> None:
    status, output, error, file = run(tmp_path, env=os.environ | {"PYTHONUTF8": "1"})
    assert (status, output, error) == (0, "\u65e5\u672c \u2212 table\n", "line\n")
    assert file.startswith("done ")


def test_letters_that_the_encoding_lacks_are_escapes(tmp_path: Path) -> None:
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, output, _, _ = run(tmp_path, env=ascii_only)
    assert (status, output) == (0, "\\u65e5\\u672c \\u2212 table\n")


def test_a_full_output_and_an_unread_one_are_told_after_the_work(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        status, _, error, file = run(tmp_path, stdout=full)
    assert (status, file[:4]) == (2, "done")
    assert "error: standard output: No space left on device: all work is done" in error and "Traceback" not in error
    reader, writer = os.pipe()
    os.close(reader)
    status, _, error, file = run(tmp_path, stdout=writer)
    os.close(writer)
    assert status == 2 and "error: standard output: Broken pipe: all work is done" in error
    assert error.count("error") == 1 and file.startswith("done ")


def test_closed_streams_are_no_place_for_a_file(tmp_path: Path) -> None:
    """The next file would get the number, and messages of libraries would be written into it."""
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        status, _, error, file = run(tmp_path, before=("sh", "-c", f'exec "$@" {closed}', "sh"))
        assert status == 0 and "Traceback" not in error
        assert int(file.split()[1]) > 2


def test_an_unread_error_stream_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    status, output, _, file = run(tmp_path, stderr=writer)
    os.close(writer)
    assert status == 0 and "table" in output and file.startswith("done ")


def test_a_pipe_that_does_not_block_gets_all(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.set_blocking(1, False)\n"
        "from sage_jax.process.standard_streams import run_with_any_output\n"
        "sys.exit(run_with_any_output(lambda: print('x' * 10**6) or 0))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read()) == 10**6 + 1
    assert process.returncode == 0
