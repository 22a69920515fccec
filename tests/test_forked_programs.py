"""Forked programs in the tests are what programs from an interpreter of their own are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked import Forked, run_forked
from tests.support.tiny_run import PROGRAM

WORKS = """
import atexit, json, os, sys
atexit.register(print, "at exit")
def main():
    import jax
    seen = {"devices": len(jax.devices()), "arguments": sys.argv[1:], "folder": os.getcwd(), "name": __name__}
    seen["threshold"] = jax.config.jax_persistent_cache_min_compile_time_secs
    seen["variable"], seen["input"] = os.environ.get("A_VARIABLE"), sys.stdin.read()
    print(json.dumps(seen))
    print("to stderr", file=sys.stderr)
    if sys.argv[1] == "fails":
        raise OSError("as it should")
    sys.exit(3)
main()
"""
WAITS = "import time\nprint('begun', flush=True)\ntime.sleep(200)\n"


@pytest.fixture
def environment() -> dict[str, str]:
    two = f"{PROGRAM['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    return os.environ | PROGRAM | {"A_VARIABLE": "given", "XLA_FLAGS": two}


@pytest.mark.parametrize("argument", ["ends", "fails"])
def test_it_sees_says_and_returns_what_one_that_is_started_does(
    tmp_path: Path, environment: dict[str, str], argument: str
) -> None:
    script = tmp_path / "works.py"
    script.write_text(WORKS, encoding="utf-8")
    command = [str(script), argument, "b c"]
    forked = run_forked(command, environment=environment, cwd=tmp_path, timeout=200)
    given = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
    started = subprocess.run([sys.executable, *command], stdin=subprocess.DEVNULL, check=False, **given)
    assert json.loads(started.stdout.splitlines()[0])["devices"] == 2 and "at exit" in started.stdout
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    assert forked.stderr.splitlines()[-1] == started.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_ends_it_and_no_other(tmp_path: Path, environment: dict[str, str], number: signal.Signals) -> None:
    (tmp_path / "waits.py").write_text(WAITS, encoding="utf-8")
    first, second = (Forked([str(tmp_path / "waits.py")], environment=environment, cwd=tmp_path) for _ in range(2))
    try:
        for program in (first, second):
            assert program.stdout is not None and program.stdout.readline() == "begun\n"
        first.send_signal(number)
        assert first.wait(60) == -number
        assert second.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.1)
    finally:
        second.kill()
    assert second.communicate(60) == ("", "") and second.returncode == -signal.SIGKILL
