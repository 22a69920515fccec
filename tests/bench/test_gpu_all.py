"""Phases of the GPU's measurements: commands that parse, flags that XLA knows, and a call that goes on."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_all
from bench.gpu_all import PHASES, XLA_FLAGS, Phase, command_of
from tests.support.tiny_run import QUICK_TO_COMPILE

ROOT = Path(__file__).parents[2]


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_all", *arguments])
    return gpu_all.main()


@pytest.mark.parametrize("name", PHASES)
def test_every_phase_is_a_command_that_its_benchmark_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its options: the sizes are those of a GPU."""
    if PHASES[name].peer:
        pytest.importorskip("torch")
    monkeypatch.setattr(sys, "argv", ["gpu_all", name])
    options = gpu_all._options()
    command = command_of(name, options)
    module = importlib.import_module(command[2])
    asked: list[Any] = []

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *given: Any) -> Any:
        asked.append(parse(self, *given))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", command[2:])
    with pytest.raises(Parsed):
        module.main()
    assert asked[0].size == ("1b" if name == "sfe" else "8b")


def test_xla_knows_the_flags_that_are_measured() -> None:
    """It ends a process at one that it does not know."""
    program = "import jax; jax.devices(); print('up')"
    known = os.environ | {"XLA_FLAGS": " ".join(XLA_FLAGS.values()), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=known, capture_output=True, text=True, check=False)
    assert done.stdout == "up\n", done.stderr
    wrong = known | {"XLA_FLAGS": "--xla_gpu_enable_latency_hidings=true"}
    assert subprocess.run([sys.executable, "-c", program], env=wrong, capture_output=True, check=False).returncode != 0


def test_a_call_does_what_is_left_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "attention --size {size} --questions 1 --answers 1 --repeats 1 --warmup 1"
    phases = {
        "slow": Phase("attention --size {size} --repeats 100000", 16.0),
        "wrong": Phase("attention --size {size} --tiles few", 60.0),
        "quick": Phase(quick, 300.0, flags=QUICK_TO_COMPILE),
        "peer_quick": Phase("peer.forward", 60.0, peer=True),
    }
    monkeypatch.setattr(gpu_all, "PHASES", phases)
    monkeypatch.setenv("XLA_FLAGS", "")
    given = ["--size", "tiny", "--out", str(tmp_path / "out")]
    assert called(monkeypatch, *given) == 1
    told = capsys.readouterr()
    assert "left: slow, wrong" in told.err and "peer_quick: left out; --peer-python" in told.err
    states = json.loads((tmp_path / "out" / "phases.json").read_text())
    assert {name: state["state"] for name, state in states.items()} == {
        "slow": "over its limit",
        "wrong": "failed",
        "quick": "done",
    }
    assert "invalid int value" in states["wrong"]["last_line"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "lines.jsonl").read_text().splitlines()]
    ways = {line["attention"]: line for line in lines if line["phase"] == "quick"}
    assert set(ways) == {"masked", "tree"}
    assert ways["masked"]["error"] == 0.0 and 0.0 < ways["tree"]["error"] < 1e-5
    assert 0.0 < ways["tree"]["forward_floor_ms"] < ways["tree"]["forward_ms"]

    phases["slow"], phases["wrong"] = Phase("attention --help", 60.0), Phase("attention --help", 60.0)
    assert called(monkeypatch, *given, "--minutes", "0.1") == 1  # no time for any
    assert called(monkeypatch, *given) == 0
    states = json.loads((tmp_path / "out" / "phases.json").read_text())
    assert {state["state"] for state in states.values()} == {"done"}
    assert len((tmp_path / "out" / "lines.jsonl").read_text().splitlines()) == len(lines)  # `quick` did not run again


def test_a_dry_run_prints_all_phases_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "--dry-run", "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(PHASES) and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        called(monkeypatch, "edpos")
    assert "there is no phase edpos; there are attention, " in capsys.readouterr().err
