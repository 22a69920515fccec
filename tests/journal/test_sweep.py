"""The table over variants of an ablation: the numbers of each variant's own."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from sage_jax.journal.sweep import sweep_table, write_sweep


def ablation(value: float) -> dict[str, object]:
    entry = {"median": value, "low": value - 0.1, "high": value + 0.1, "min": value, "max": value, "values": {}}
    return {"rows": {"edpo": {"zero_shot": {"verdict_accuracy": entry}, "one_shot": {"acc_g": entry}}, "sfe": {}}}


def test_each_variant_has_a_row_with_what_was_measured(tmp_path: Path) -> None:
    found = {"max_facts_2": ablation(0.5), "num_distinct_8": ablation(0.75)}
    sweep = write_sweep(tmp_path, found, "edpo")
    assert json.loads((tmp_path / "sweep.json").read_text()) == sweep
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith(("| max", "| num"))}
    assert [*rows] == [*found]
    assert "0.500 [0.400, 0.600]" in rows["max_facts_2"] and rows["num_distinct_8"].count("0.750") == 2
    assert rows["max_facts_2"].count("–") == 6
    said = io.StringIO()
    Console(width=100, file=said, color_system=None).print(sweep_table(sweep))
    printed = said.getvalue()
    assert max(map(len, printed.splitlines())) <= 100 and "0.750" in printed and "zero-shot" in printed
