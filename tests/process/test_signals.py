"""A signal is a flag from the first moment of the program, and no work that follows it is lost or swallows it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import MeshConfig
from sage_jax.config.command_line import read_config
from sage_jax.data import check as data_check
from sage_jax.data import store
from sage_jax.main import main
from sage_jax.process import signals
from sage_jax.process.signals import Interrupted, StopSignals
from sage_jax.process.stop_request import StopRequest, Watch
from sage_jax.sharding import make_mesh
from tests.support.tiny_run import CONFIG, ROOT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_aborts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    assert not signals.requested()
    with StopSignals() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested and signals.requested()
        assert capfd.readouterr().err == f"{number.name}: stopping after what is under way; again to abort\n"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before and not signals.requested()


def test_a_loop_that_begins_after_the_signal_stops_at_once_and_says_nothing_twice() -> None:
    said: list[str] = []
    with StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest(said.append, make_mesh(MeshConfig())) as stop:
            assert stop.agreed()
        handler = signal.getsignal(signal.SIGTERM)
        assert getattr(handler, "__name__", "") == "_note", "the loop leaves the program's handler in place"
    assert said == []


def test_a_signal_in_a_loop_is_told_by_the_loop_and_known_after_it() -> None:
    said: list[str] = []
    with StopSignals():
        with StopRequest(said.append, make_mesh(MeshConfig()), after="this batch"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested()
    assert said == ["SIGTERM: stopping after this batch; again to abort"]


def test_a_handler_that_a_library_has_set_is_replaced() -> None:
    with StopSignals() as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.renew()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_a_message_in_the_middle_of_a_write_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    def reentrant(line: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    with StopSignals() as stop:
        stop.announce(reentrant, "this step")
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "SIGINT: stopping after this step; again to abort\n"


def test_a_watched_loop_ends_after_the_unit_in_which_the_signal_came(tmp_path: Path) -> None:
    from sage_jax.journal.run_log import RunLog

    done: list[int] = []
    with RunLog(tmp_path, "evaluate") as log, StopRequest(log.line, make_mesh(MeshConfig())) as stop:
        watch = Watch("sfe, one-shot was scored; finished modes stay", log.progress, stop)
        with (
            pytest.raises(Interrupted, match="stopped while sfe, one-shot"),
            watch.progress(5, unit="batch") as advance,
        ):
            for unit in range(1, 6):
                if unit == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                done.append(unit)
                advance(unit)
    assert done == [1, 2, 3]


def test_a_build_that_is_stopped_leaves_nothing_and_check_stops_too(tmp_path: Path) -> None:
    config = read_config(["--config", str(CONFIG), f"--config.data.cache_dir={tmp_path / 'cache'}"])
    with StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="nothing of it is kept"):
            store.prepare(config.data, config.text, seed=0, run_dir=tmp_path)
        with pytest.raises(Interrupted, match="while the data set was checked"):
            data_check.check(config.data, 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stop_before_a_stage_is_status_0_with_the_command_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sage_jax.stages import stages

    begin = stages.check_stages

    def signalled(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        begin(*arguments)

    monkeypatch.setattr(stages, "check_stages", signalled)
    arguments = ["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'run'}", "--config.stages=prepare"]
    assert main(arguments) == 0
    said = capfd.readouterr().err
    assert "SIGTERM: stopping" in said and "stopped before stage prepare\nTo go on: python -m sage_jax.main" in said


def test_a_signal_during_the_imports_is_status_0_without_a_traceback(tmp_path: Path) -> None:
    # The signal comes when the slow imports have begun.
    program = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'sage_jax.stages.stages':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from sage_jax.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["--config", str(CONFIG), f"--config.run_dir={tmp_path / 'run'}", "--config.stages=prepare"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and "To go on: " in ended.stderr
    assert not (tmp_path / "run" / "data.json").exists()
