"""The ablation over seeds: medians, order, and gains paired by image, from the predictions of the seeds' runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.journal.ablation import values_by_image, write_ablation
from sage_jax.metrics.intervals import Metric


def row(record: str, *, right: bool, both: bool | None, mle: float) -> dict[str, Any]:
    reason = None if both is None else {"kind": True, "place": True, "both": both}
    return {
        **{"id": record, "ground_truth": True, "dichotomy": right},
        **{"mle": {"average": mle}, "reason": reason},
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_values_are_by_image_and_acc_g_by_record(tmp_path: Path) -> None:
    rows = [row("i1/c", right=True, both=True, mle=5.0), row("i1/c", right=False, both=None, mle=1.0)]
    untold = {"ground_truth": None, "dichotomy": None, "mle": None}
    rows += [row("i1/d", right=True, both=None, mle=1.0) | untold, row("i3/c", right=True, both=None, mle=1.0) | untold]
    rows += [row("i1/d", right=True, both=None, mle=4.0), row("i2/c", right=True, both=False, mle=3.0)]
    found = values_by_image(write_rows(tmp_path / "rows.jsonl", rows))
    assert found["verdict_accuracy"] == {"i1": [1.0, 0.0, 1.0], "i2": [1.0]}
    assert found["acc_g"] == {"i1": [0.0, 1.0], "i2": [1.0]}
    assert found["reason_both"] == {"i1": [1.0], "i2": [0.0]}
    assert found["mle"] == {"i1": [5.0, 1.0, 4.0], "i2": [3.0]}
    chinese = [{**each, "mle": None, "reason": None} for each in rows]
    without = values_by_image(write_rows(tmp_path / "chinese.jsonl", chinese))
    assert without == {**found, "mle": {}, "reason_both": {}}


def test_gains_are_paired_over_the_seeds_that_have_both(tmp_path: Path) -> None:
    rng = random.Random(3)
    gains: list[float] = []
    for seed in (0, 1):
        for mode in ("zero_shot", "one_shot"):
            before = [row(f"i{n}/c", right=True, both=True, mle=rng.uniform(1, 4)) for n in range(30)]
            after = [{**each, "mle": {"average": each["mle"]["average"] + rng.uniform(0, 1)}} for each in before]
            for name, rows in (("dpo", before), ("edpo", after)):
                write_rows(tmp_path / str(seed) / "predictions" / f"{name}_{mode}.jsonl", rows)
            if mode == "one_shot":
                pairs = zip(before, after, strict=True)
                gains += [b["mle"]["average"] - a["mle"]["average"] for a, b in pairs]
    entry = {"mle": vars(Metric(3.0, 2.9, 3.1, 30))}
    summary = {"metrics": {name: {"one_shot": entry, "zero_shot": entry} for name in ("dpo", "edpo")}}
    ablation = write_ablation(tmp_path, {0: summary, 1: summary}, {seed: tmp_path / str(seed) for seed in (0, 1)})
    wanted = {"lower": "dpo", "higher": "edpo", "mode": "one_shot", "metric": "mle", "seeds": 2}
    (found,) = [each for each in ablation["paired"] if wanted.items() <= each.items()]
    assert found["value"] == pytest.approx(np.mean(gains)) and found["low"] < found["value"] < found["high"]
    assert {(each["lower"], each["higher"]) for each in ablation["paired"]} == {("dpo", "edpo")}
    text = (tmp_path / "ablation.md").read_text()
    assert "SFE + E-DPO over SFE + DPO | one-shot | +0.000 [+0.000, +0.000]" in text
    assert f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" in text
    assert "MLE, one-shot: SFE + E-DPO ≥ SFE + DPO in 2 of 2 seeds" in text
