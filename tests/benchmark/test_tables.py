"""The tables of a benchmark, from a summary that is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from sage_jax.benchmark.answer import Answer
from sage_jax.benchmark.items import Asked, Item
from sage_jax.benchmark.results import choice_results, record_results, verdict_results
from sage_jax.benchmark.tables import benchmark_tables, print_benchmark
from tests.support.question_sets import MMAD_TYPES

ABOUT = {"revision": "ab" * 32, "questions": 8, "images": 4, "left_out": 0}


def printed(path: Path) -> str:
    console = Console(width=100, file=io.StringIO())
    print_benchmark(path, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def choices(said: str) -> dict[str, Any]:
    told = []
    for number, dataset in enumerate(("DS-MVTec", "MVTec-LOCO", "VisA", "GoodsAD")):
        path = f"{dataset}/cap/test/good/{number}.png"
        asked = [Asked("Which?", kind, {"A": "Yes.", "B": "No."}, "AB"[number % 2]) for kind in MMAD_TYPES]
        told.append((Item(path, "", path, (), "cap", tuple(asked)), [Answer(said, 0.5, (-1.0, -2.0))] * 8))
    return choice_results(told, samples=10, seed=0).metrics


def test_multiple_choice_has_types_data_sets_rivals_and_what_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for shots, said in ((0, "A"), (1, "who knows")):
        about = {"name": "mmad", **ABOUT, "left_out": 3 if shots == 0 else 3}
        record_results(path, "sfe", shots, about, choices(said))
    text = printed(path)
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    assert "mmad, stage sfe: 8 questions of 4 images, 3 left out for their faults, revision abababababab" in text
    for heading in (
        "DS-MVTec",
        "MVTec-LOCO",
        "VisA",
        "GoodsAD",
        "0-shot",
        "1-shot",
        "best letter",
        "always A",
        "longest",
    ):
        assert heading in text
    assert text.count("always A") == 2, "once a table, not once a number of references"
    assert "1-shot: 32 written answers name no option or verdict; they count as wrong." in text
    assert "0-shot, by MMAD's own evaluator with its faults: " in text
    assert "1-shot, by MMAD's own evaluator with its faults: 0.0 % on average" in text


def test_verdicts_have_kinds_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    asked = (Asked("Is it?", "defect identification", {}, "Yes"), Asked("Will it?", "defect diagnosis", {}, "Yes"))
    told = [(Item("a.png", "", "a.png", (), "cap", asked), [Answer("No", 0.9, ()), Answer("Yes", 0.9, ())])]
    record_results(path, "base", 0, {"name": "manta", **ABOUT}, verdict_results(told, samples=5, seed=0).metrics)
    lines = printed(path).splitlines()
    likelihood = next(line for line in lines if "likelihood" in line)
    generated = next(line for line in lines if "generated" in line)
    assert likelihood.split()[2:] == ["1.000", "1.000", "1.000", "1.000", "0", "2"]
    assert generated.split()[1:] == ["0.500", "1.000", "0.000", "0.000", "0", "2"]


def test_nothing_measured_says_so(tmp_path: Path) -> None:
    assert "run the stage benchmark" in printed(tmp_path / "none.json")
    assert "run the stage benchmark" in str(benchmark_tables(json.loads("{}")))
