"""The table over seeds has each run's value, their median, and the change from stage 1 to stage 2."""

from __future__ import annotations

import json
from pathlib import Path

from bench.seeds import table


def _run(folder: Path, sfe: float, edpo: float) -> Path:
    folder.mkdir(parents=True)
    stages = {"sfe": sfe, "edpo": edpo}
    kinds = {"defect diagnosis": {"value": 0.5}}
    metrics = {
        name: {"one_shot": {"reason_both": {"value": value}, "auroc": {"value": None}, "accuracy_by_kind": kinds}}
        for name, value in stages.items()
    }
    (folder / "summary.json").write_text(json.dumps({"metrics": metrics}))
    (folder / "predictions").mkdir()
    for name in stages:
        rows = [("Is there a defect in this part?", True), ("Is there a defect in this part?", False), ("Else?", False)]
        text = [json.dumps({"question": asked, "ground_truth": True, "dichotomy": said}) for asked, said in rows]
        (folder / "predictions" / f"{name}_one_shot.jsonl").write_text("\n".join(text))
    return folder


def test_values_medians_and_changes(tmp_path: Path) -> None:
    runs = [_run(tmp_path / str(seed), *values) for seed, values in enumerate([(0.7, 0.8), (0.6, 0.9), (0.8, 0.7)])]
    lines = table(runs, "one_shot")
    assert "| reason_both | 0.700, 0.600, 0.800 | 0.700 | 0.800, 0.900, 0.700 | 0.800 | +0.100 |" in lines
    assert any(line.startswith("| is there a defect | 0.500, 0.500, 0.500 | 0.500 |") for line in lines)
    assert any(line.startswith("| defect diagnosis | 0.500") for line in lines)
    assert not any(line.startswith("| auroc") for line in lines), "what is not known is left out"
    assert len(table(runs, "zero_shot")) == 2
