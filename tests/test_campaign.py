"""The campaigns that break the program on purpose, kept short; `python -m tests.campaign` runs the long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.campaign.fuzz import fuzz_inputs, try_input
from tests.campaign.mutate import damage, mutate
from tests.campaign.report import Report
from tests.campaign.targets import Target, targets


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return targets(tmp_path_factory.mktemp("campaign") / "inputs")


def test_every_input_is_read_as_it_is(inputs: list[Target]) -> None:
    """Else nothing but refusals would be tried."""
    for target in inputs:
        assert try_input(target, target.content) == ("read", ""), target.name


def test_mutants_are_read_or_refused_in_one_message(tmp_path: Path) -> None:
    report = fuzz_inputs(tmp_path, 400, 7, keep=None, only="", say=lambda line: None)
    assert not report.failed, str(report)
    assert sum(report.counts.values()) == 400


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """A reader that fails otherwise, that reads another value, or that shows what it should not."""

    def fails(path: Path) -> Any:
        raise KeyError(path.name)

    content = b'{"a": 1}'
    kinds = {
        "traceback": Target("x", tmp_path / "x", content, fails),
        "silent": Target("x", tmp_path / "x", content, lambda path: len(path.read_bytes()), True, len(content)),
    }
    report = Report()
    for expected, target in kinds.items():
        outcome, about = try_input(target, content + b" ")
        assert outcome == expected and about
        report.add("x", outcome, about)
    report.add("x", "told")
    assert report.failed and "3 cases, 2 failed" in str(report)


def test_mutations_depend_on_their_seed_alone() -> None:
    import random

    content = b'{"a": [1, {"b": "c"}], "d": null}' * 1
    first, again = ([mutate(content, random.Random(seed)) for seed in range(200)] for _ in range(2))
    assert first == again and len(set(first)) > 120
    rng = random.Random(0)
    assert damage(content, "deleted", rng) is None and damage(content, "emptied", rng) == b""
    flipped = damage(content, "flipped", rng) or b""
    assert sum((a ^ b).bit_count() for a, b in zip(content, flipped, strict=True)) == 1
    assert content.startswith(damage(content, "truncated", rng) or b"")
