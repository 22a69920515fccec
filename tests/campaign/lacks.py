"""What a run may lack or find odd: room, permission, handles, memory, an output, a home; names and clocks."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.campaign.work import STAGES, Ended, Work
from tests.support.tiny_run import compiled_in, start_main

WITHOUT_PRIVILEGE: Final = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")
"""Starts a program that obeys the modes of files though its user is root."""
NAMES: Final = (
    "with  spaces",
    "\u65e5\u672c\u8a9e \u691c\u67fb",
    "Pru\u0308fung",  # a combining character
    "two\nlines",
    "-dash 'quote' \"double\" $HOME `x` %s {0} [b]",
    "\u202eright to left",
)
"""Names of run folders."""
_CLOCK: Final = """
import time
_time, _ns, _back = time.time, time.time_ns, 20 * 365 * 86400
time.time = lambda: _time() - _back
time.time_ns = lambda: _ns() - _back * 10**9
"""


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A file system in memory of that size, mounted on a folder; gives what changes its size.

    Raises:
      OSError: This process may not mount one.
    """
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))
    try:
        yield lambda size: _mount("-o", f"remount,size={size}k", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


def limited(kind: int, most: int) -> Callable[[], None]:
    """What sets a limit in a process before its program begins."""
    return lambda: resource.setrlimit(kind, (most, most))


def disk_full(work: Work) -> Ended:
    """The file system of run and data is full from some moment on: of a stage that is drawn, or whenever it is."""
    disk, stage = work.folder / "disk", work.rng.choice((*STAGES, ""))
    kilobytes = 2**16 if stage else work.rng.randint(100, 3500)
    fields = (f"--config.run_dir={disk / 'run'}", f"--config.data.cache_dir={disk / 'cache'}")
    with small_disk(disk, kilobytes) as resize:

        def fill(process: int) -> None:
            while not _has_begun(stage, disk) and _runs(process):
                time.sleep(0.02)
            room = os.statvfs(disk)
            resize((room.f_blocks - room.f_bfree) * room.f_frsize // 1024 + work.rng.randint(0, 16))

        ended = work.run(*fields, meanwhile=fill, after=(0.0, 0.0)) if stage else work.run(*fields)
        for name in ("run", "cache"):
            if (disk / name).exists():
                shutil.copytree(disk / name, work.folder / name, dirs_exist_ok=True)
    return ended


def _has_begun(stage: str, disk: Path) -> bool:
    """Whether a run has a line of a stage; `prepare` says its first at its end, and begins with a folder."""
    log = disk / "run" / "log.txt"
    if stage == "prepare":
        return (disk / "cache").exists()
    return log.exists() and re.search(rf"^\S+ \S+ {stage}: ", log.read_text(), re.MULTILINE) is not None


def _runs(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def small_files(work: Work) -> Ended:
    """No file may be larger than that."""
    most = int(2 ** work.rng.uniform(8.0, 18.0))
    return work.run(preexec_fn=limited(resource.RLIMIT_FSIZE, most))


def few_handles(work: Work) -> Ended:
    """No more files may be open at once."""
    return work.run(preexec_fn=limited(resource.RLIMIT_NOFILE, work.rng.randint(8, 64)))


def memory(work: Work) -> Ended:
    """The address space is limited."""
    return work.run(preexec_fn=limited(resource.RLIMIT_AS, work.rng.randint(500, 6000) << 20))


def no_permission(work: Work) -> Ended:
    """Run and data may not be written, from the beginning or from some moment on."""
    if work.rng.random() < 0.25:
        take_away(work.folder)
    return work.run(meanwhile=lambda process: take_away(work.folder), before=WITHOUT_PRIVILEGE)


def take_away(folder: Path) -> None:
    """Takes the right to write from all that is in a folder, and from the folder."""
    for path in (*folder.rglob("*"), folder):
        with contextlib.suppress(FileNotFoundError):  # a temporary one
            path.chmod(0o555 if path.is_dir() else 0o444)


def give_back(folder: Path) -> None:
    """Gives it back."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def killed_worker(work: Work) -> Ended:
    """A process that reads data for the run is killed."""

    def kill(process: int) -> None:
        while _runs(process):
            with contextlib.suppress(OSError):  # it has ended since
                for children in Path(f"/proc/{process}/task").glob("*/children"):
                    for child in children.read_text().split():
                        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                            os.kill(int(child), signal.SIGKILL)
                            return
            time.sleep(0.1)

    return work.run("--config.data.num_workers=1", meanwhile=kill)


def no_output(work: Work) -> Ended:
    """Standard output, input, and now and then standard error, are closed, full, or a pipe that nobody reads."""
    return [_closed, _full, _unread, _nothing_open][work.rng.randrange(4)](work)


def _closed(work: Work) -> Ended:
    return work.run(preexec_fn=lambda: os.close(1))


def _full(work: Work) -> Ended:
    with open("/dev/full", "w") as full:
        return work.run(stdout=full)


def _unread(work: Work) -> Ended:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return work.run(stdout=writer)
    finally:
        os.close(writer)


def _nothing_open(work: Work) -> Ended:
    return work.run(preexec_fn=lambda: os.closerange(0, 3))


def no_home(work: Work) -> Ended:
    """No HOME, and a user that the system does not know."""
    return work.run(environment={"HOME": "", "USER": "", "LOGNAME": ""})


def c_locale(work: Work) -> Ended:
    """ASCII is all that the terminal knows."""
    return work.run(environment={"LC_ALL": "C", "LANG": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})


def clock(work: Work) -> Ended:
    """Stopped at some moment, its files dated into the future; then the clock is twenty years back."""
    process = start_main(work.folder, *work.fields, environment=compiled_in(work.folder))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=work.rng.uniform(4.0, 20.0))
    process.kill()
    process.communicate()
    for path in work.folder.rglob("*"):
        future = time.time() + work.rng.uniform(0, 10**8)
        os.utime(path, (future, future), follow_symlinks=False)
    site = work.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_CLOCK)
    return work.run(environment={"PYTHONPATH": str(site)})


def odd_name(work: Work) -> Ended:
    """A name of the run folder out of the usual."""
    odd = work.folder / work.rng.choice(NAMES)
    fields = (f"--config.run_dir={odd / 'run'}", f"--config.data.cache_dir={odd / 'cache'}")
    ended = work.run(*fields)
    for name in ("run", "cache"):
        if (odd / name).exists():
            shutil.copytree(odd / name, work.folder / name)
    return ended


@dataclasses.dataclass(frozen=True)
class Lack:
    """A kind of lack.

    Attributes:
      run: Runs with it.
      says: What the one message has, as a regular expression; "" = a run does not notice, and ends as any other.
      may_die: Whether it may end a run inside a library, without a message.
    """

    run: Callable[[Work], Ended]
    says: str = ""
    may_die: bool = False


LACKS: Final[dict[str, Lack]] = {
    "disk full": Lack(disk_full, "No space left on device"),
    "small files": Lack(small_files, "File too large"),
    "few handles": Lack(few_handles, "Too many open files"),
    "memory": Lack(memory, "Cannot allocate memory|Resource temporarily unavailable", may_die=True),
    "no permission": Lack(no_permission, "Permission denied|Operation not permitted"),
    "killed worker": Lack(killed_worker),
    "no output": Lack(no_output, "standard output: .*: all work is done"),
    "no home": Lack(no_home),
    "C locale": Lack(c_locale),
    "clock": Lack(clock),
    "odd name": Lack(odd_name),
}
