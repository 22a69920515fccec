"""Comparisons: ratios against their bars, benchmarks and options that are there, packages that the peer lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare import COMPARISONS, Figure, missing_packages, names_of, ratio
from bench.measure import read_lines
from tests.support.forked import run_forked
from tests.support.tiny_run import PROGRAM

ROOT = Path(__file__).parents[2]


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench.compare` in a process of its own, on one device."""
    return run_forked(["bench.compare", *arguments], environment=os.environ | PROGRAM, cwd=ROOT, timeout=500)


def test_ratios_are_medians_of_pairs_held_against_their_bar() -> None:
    figure = Figure("seconds over six calls", "seconds", "seconds", 0.4, scale=6.0, less=True)
    pairs = [({"seconds": ours}, {"seconds": 1.0}) for ours in (3.0, 1.2, 2.1)]
    found = ratio("facts_and_questions", "tiny", figure, pairs)
    assert (found["ratio"], found["ratio_min"], found["ratio_max"], found["met"]) == (0.35, 0.2, 0.5, True)
    faster = Figure("tokens/s", "ours", "theirs", 1.2)
    assert not ratio("forward", "tiny", faster, [({"ours": 11.0}, {"theirs": 10.0})])["met"]


def test_comparisons_name_benchmarks_that_are_there() -> None:
    for comparison in COMPARISONS.values():
        assert (ROOT / "bench" / f"{comparison.ours.split()[0]}.py").is_file()
        assert (ROOT / "bench" / "peer" / f"{comparison.theirs.split()[0]}.py").is_file()


def test_a_size_runs_the_comparisons_of_its_device() -> None:
    for size, on_gpu in (("tiny", False), ("small", False), ("1b", True), ("8b", True)):
        names = names_of(size)
        assert names and all(name.startswith("gpu_") == on_gpu for name in names)
    assert "gpu_sft" in names_of("1b") and "gpu_sft" not in names_of("8b")


def test_a_size_that_a_comparison_does_not_have_is_an_error() -> None:
    done = compare("--size", "8b", "edpo_trl")
    assert done.returncode == 2 and "edpo_trl is of the sizes tiny, small, not 8b" in done.stderr


def test_packages_that_the_peers_interpreter_lacks_are_named(tmp_path: Path) -> None:
    """Before our side runs, which may take minutes."""
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    assert missing_packages(str(bare), ["edpo_trl"]) == ["torch", "transformers", "trl", "datasets"]
    assert missing_packages(str(bare), ["gpu_edpo"]) == ["torch", "transformers", "peft"]
    done = compare("--peer-python", str(bare), "forward")
    assert done.returncode == 1 and done.stdout == ""
    assert "has no torch, transformers: pip install -r requirements-peer.txt" in done.stderr


@pytest.mark.parametrize("name", ["edpo_trl", "gpu_edpo"])
def test_one_command_prints_both_sides_and_their_ratio(name: str) -> None:
    if missing := missing_packages(sys.executable, [name]):
        pytest.skip(f"not installed: {', '.join(missing)}, of requirements-peer.txt")
    done = compare("--pairs", "1", "--repeats", "1", "--warmup", "1", name)
    assert done.returncode == 0, done.stderr
    ours, theirs, *ratios = read_lines(done.stdout.splitlines())
    assert (ours["what"], theirs["what"]) == ("edpo_step", "dpo") and theirs["peer"] == "transformers"
    assert [line["figure"] for line in ratios] == [each.name for each in COMPARISONS[name].figures]
    quotient = ours["questions_per_s"] / theirs["questions_per_s"]
    assert json.dumps(ratios[0]["ratio"]) == json.dumps(round(quotient, 3)) and quotient > 0
