"""Programs that begin as forks of a process that has imported what they import, which takes them seconds by themselves.

They run as `python -m MODULE` does otherwise: processes of their own, with their own arguments, variables, folder,
signals, devices and end. Whether a program starts as a user starts it, test_main.py and test_wheel.py show.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]
IMPORTED: Final = (
    "sage_jax.main",
    "sage_jax.cli",
    "sage_jax.command_options",
    "sage_jax.api",
    "sage_jax.stages.stages",
    "sage_jax.journal.tensorboard",
    "sage_jax.serving.service",
    "grain",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "uvicorn",
)
_LARGEST: Final = 1 << 20  # bytes of a request
_SERVER: Final = "from tests.support.forked import wait_for_requests; wait_for_requests()"


class Forked:
    """A started program, with the attributes and methods of `subprocess.Popen[str]` that tests use.

    Args:
      command: Module, or path of a script, and its arguments.
      environment: All of its variables. Of those that JAX reads when it is imported, only
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS and JAX_COMPILATION_CACHE_DIR may differ from this process's.
      cwd: Its folder.
      stdout, stderr: Open files; None = a pipe, which is `stdout` or `stderr` here.
      merged: One pipe, `stdout`, for both.

    Attributes:
      returncode: Exit status; negative = a signal; None before it was seen to end.
    """

    def __init__(
        self,
        command: list[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        merged: bool = False,
    ) -> None:
        self.args = command
        self.returncode: int | None = None
        request = json.dumps({"command": command, "environment": dict(environment), "cwd": str(cwd)}).encode()
        assert len(request) < _LARGEST
        self._status, status = os.pipe()
        with contextlib.ExitStack() as given:
            given.callback(os.close, status)
            self.stdout, out = _piped(given) if stdout is None else (None, stdout.fileno())
            self.stderr, error = None, out
            if not merged:
                self.stderr, error = _piped(given) if stderr is None else (None, stderr.fileno())
            socket.send_fds(_server(), [request], [status, out, error])
        self._said = b""
        while b"\n" not in self._said:
            self._read_status(None)
        self.pid = int(self._said)

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status at its end.

        Raises:
          subprocess.TimeoutExpired: It still runs.
        """
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it writes to the ends of its pipes; "" for one that is none. Then its exit status is there.

        Raises:
          subprocess.TimeoutExpired: It still runs.
        """
        end = None if timeout is None else time.monotonic() + timeout
        said = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            said[number] = stream.read()

        streams = [(number, stream) for number, stream in enumerate((self.stdout, self.stderr)) if stream]
        readers = [threading.Thread(target=read, args=given, daemon=True) for given in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
        if any(reader.is_alive() for reader in readers):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if end is None else max(1.0, end - time.monotonic()))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._read_status(left):
                break
            lines = self._said.split(b"\n")
            if len(lines) == 3:
                os.close(self._status)
                self.returncode = int(lines[1])
        return self.returncode

    def _read_status(self, timeout: float | None) -> bool:
        """Whether something came in time."""
        if not select.select([self._status], [], [], timeout)[0]:
            return False
        came = os.read(self._status, 64)
        assert came, f"the process that forks programs has ended before {self.args}"
        self._said += came
        return True


def run_forked(
    command: list[str], *, environment: Mapping[str, str], cwd: Path, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; arguments as of `Forked`."""
    program = Forked(command, environment=environment, cwd=cwd)
    try:
        stdout, stderr = program.communicate(timeout)
    except BaseException:
        program.kill()
        raise
    assert program.returncode is not None
    return subprocess.CompletedProcess(command, program.returncode, stdout, stderr)


def _piped(given: contextlib.ExitStack) -> tuple[IO[str], int]:
    reads, writes = os.pipe()
    given.callback(os.close, writes)
    return os.fdopen(reads, encoding="utf-8", errors="replace"), writes


@functools.cache
def _server() -> socket.socket:
    """The connection to this process's own server, which ends when it is closed."""
    from tests.support.tiny_run import PROGRAM

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Programs would start again for huge pages.
    environment = os.environ | PROGRAM | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    with theirs:
        subprocess.Popen(
            [sys.executable, "-c", _SERVER], cwd=ROOT, env=environment, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
        )
    return ours


def wait_for_requests() -> None:
    """Forks a program for each request that comes on standard input; in a program, runs it and returns at its end."""
    request = None
    with contextlib.suppress(KeyboardInterrupt):  # of the terminal, meant for the tests
        request = _forked(socket.socket(fileno=os.dup(0)))
    if request:
        _run(request)


def _forked(connection: socket.socket) -> dict[str, Any] | None:
    """The request of the program that this process has become; None at the end of requests."""
    import gc
    import importlib
    import warnings

    sys.path.insert(0, str(ROOT))
    for name in IMPORTED:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX has no threads before it has devices
    gc.freeze()
    while True:
        data, files, _, _ = socket.recv_fds(connection, _LARGEST, 3)
        if not data:
            return None
        between = os.fork()
        if between:
            os.waitpid(between, 0)
            for file in files:
                os.close(file)
            continue
        # This process waits for the program's end; its own end, nobody waits for.
        if os.fork():
            os._exit(0)
        status, *streams = files
        program = os.fork()
        if program:
            for file in streams:
                os.close(file)
            os.write(status, b"%d\n" % program)
            ended = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(status, b"%d\n" % ended)
            os._exit(0)
        os.close(status)
        connection.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(streams, start=1):
            os.dup2(file, number)
            os.close(file)
        return json.loads(data)


def _run(request: dict[str, Any]) -> None:
    import jax

    # As in a terminal, though the tests may have been started in the background, where it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program, *arguments = request["command"]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"], GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    seconds, folder = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_COMPILATION_CACHE_DIR"
    jax.config.update(seconds.lower(), float(os.environ.get(seconds, "1")))
    jax.config.update(folder.lower(), os.environ.get(folder))
    sys.argv = [program, *arguments]
    script = program.endswith(".py")
    sys.orig_argv = [sys.executable, *(() if script else ("-m",)), *sys.argv]  # by which some start again
    if script:
        runpy.run_path(program, run_name="__main__")
        return
    sys.modules.pop(program, None)
    runpy.run_module(program, run_name="__main__", alter_sys=True)
