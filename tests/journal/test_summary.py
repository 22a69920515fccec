"""`summary.json`, its tables and the ablation."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from sage_jax.errors import ConfigError
from sage_jax.journal.summary import (
    METRICS,
    MODELS,
    MODES,
    CostMeter,
    load_summary,
    record_cost,
    record_metrics,
)
from sage_jax.journal.tables import print_summary
from sage_jax.metrics.intervals import UNDEFINED, Metric

KINDS = ("standard comparison", "defect identification", "defect diagnosis")


def random_metric(rng: random.Random, low: float = 0.5, high: float = 1.0) -> Metric:
    value = rng.uniform(low, high)
    return Metric(value, value - rng.uniform(0.01, 0.05), value + rng.uniform(0.01, 0.05), rng.randrange(100, 2000))


def full_summary(path: Path, seed: int, mle: dict[str, float] | None = None) -> dict[str, Any]:
    rng = random.Random(seed)
    for model in MODELS:
        for mode in MODES:
            metrics = {name: random_metric(rng) for name in METRICS}
            level = (mle or {}).get(model, 3.0)
            metrics["mle"] = Metric(level, level - 0.1, level + 0.1, 100)
            kinds = {kind: random_metric(rng) for kind in KINDS}
            record_metrics(path, model, mode, metrics, {"accuracy_by_kind": kinds, "unparsable": rng.randrange(99)})
    record_cost(path, "sfe", seconds=83.2, peak_memory_gb=3.21)
    return load_summary(path)


def printed(content: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(content)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def printed_file(path: Path) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    print_summary(path, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_recording_one_stage_keeps_all_others(tmp_path: Path):
    path, rng = tmp_path / "summary.json", random.Random(0)
    before = full_summary(path, 0)
    accuracy, ranking = random_metric(rng), random_metric(rng)
    record_metrics(path, "sfe", "one_shot", {"verdict_accuracy": accuracy}, {"unparsable": 7})
    record_metrics(path, "sfe", "one_shot", {"ranking_adjacent": ranking})
    record_cost(path, "edpo", seconds=5, peak_memory_gb=1)
    after = load_summary(path)
    entry = after["metrics"]["sfe"]["one_shot"]
    assert entry.pop("verdict_accuracy")["value"] == accuracy.value
    assert entry.pop("ranking_adjacent") == vars(ranking)
    assert entry.pop("unparsable") == 7
    for name in ("verdict_accuracy", "ranking_adjacent", "unparsable"):
        before["metrics"]["sfe"]["one_shot"].pop(name)
    assert after["stages"].pop("edpo") == {"seconds": 5, "peak_memory_gb": 1}
    assert after == before


def test_what_is_no_summary_is_told(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert load_summary(path) == {"stages": {}, "metrics": {}}
    for content in ("", "[]", "[" * 100_000, '{"stages": 3}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match="summary.json: .*; delete it and run the stage evaluate again"):
            load_summary(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="summary.json: cannot be read"):
        load_summary(path)


def test_a_number_that_nobody_measured_is_told(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary = full_summary(path, 0)
    text = path.read_text(encoding="utf-8")
    assert '"seconds": 83.2' in text
    path.write_text(text.replace('"seconds": 83.2', '"seconds": 83.3'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary.json: cannot be read \(its checksum .*delete it and run the stage"):
        load_summary(path)
    before = {name: value for name, value in json.loads(text).items() if name != "checksum"}
    path.write_text(json.dumps(before), encoding="utf-8")  # as it was written before it had one
    assert load_summary(path) == summary


def test_every_metric_holds_value_interval_and_count(tmp_path: Path):
    summary = full_summary(tmp_path / "summary.json", 1)
    for model in MODELS:
        for mode in MODES:
            entry = summary["metrics"][model][mode]
            assert entry.keys() == METRICS.keys() | {"accuracy_by_kind", "unparsable"}
            for metric in [*(entry[name] for name in METRICS), *entry["accuracy_by_kind"].values()]:
                assert metric.keys() == {"value", "low", "high", "n"}


def test_table_is_printed_from_the_file_and_fits_100_columns(tmp_path: Path):
    path = tmp_path / "summary.json"
    full_summary(path, 2)
    content = json.loads(path.read_text(encoding="utf-8"))
    accuracy = {"value": 0.123456, "low": 0.1, "high": 0.2, "n": 4321}
    content["metrics"]["edpo"]["one_shot"]["verdict_accuracy"] = accuracy
    content["metrics"]["base"]["zero_shot"]["pixel_auroc"] = vars(UNDEFINED)
    del content["checksum"]
    path.write_text(json.dumps(content), encoding="utf-8")
    text = printed_file(path)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    assert "0.123" in text and "±0.050" in text and "4321" in text and "–" in text
    assert "1 min 23 s" in text and "3.21 GB" in text
    for model in MODELS:
        assert model in text
    lines = text.splitlines()
    assert sum("zero-shot" in line for line in lines) == sum("one-shot" in line for line in lines) == 5 * len(MODELS)


def test_empty_summary_says_what_to_run(tmp_path: Path):
    assert "evaluate" in printed_file(tmp_path / "summary.json")


def test_broken_summary_and_unknown_names_are_errors(tmp_path: Path):
    path = tmp_path / "summary.json"
    with pytest.raises(ValueError, match="'sft' is none of base"):
        record_metrics(path, "sft", "one_shot", {})
    with pytest.raises(ValueError, match="'few_shot'"):
        record_metrics(path, "sfe", "few_shot", {})
    with pytest.raises(ValueError, match="'accuracy' is none of"):
        record_metrics(path, "sfe", "one_shot", {"accuracy": UNDEFINED})
    with pytest.raises(ValueError, match="f1.value is nan"):
        record_metrics(path, "sfe", "one_shot", {"f1": Metric(float("nan"), 0, 0, 1)})
    assert not path.exists()
    for content in ("{", "[]", '{"stages": 3}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"summary\.json: .*run the stage evaluate"):
            record_cost(path, "sfe", seconds=1, peak_memory_gb=1)
        assert path.read_text(encoding="utf-8") == content


def test_resumed_stage_adds_its_seconds_and_keeps_the_larger_peak(tmp_path: Path):
    path = tmp_path / "summary.json"
    record_cost(path, "sfe", seconds=10, peak_memory_gb=3, resumed=True)
    record_cost(path, "sfe", seconds=5, peak_memory_gb=2, resumed=True)
    assert load_summary(path)["stages"]["sfe"] == {"seconds": 15, "peak_memory_gb": 3}
    record_cost(path, "plain", seconds=10, peak_memory_gb=3, shares={"input_wait": 0.1, "padding": 0.4})
    record_cost(path, "plain", seconds=30, peak_memory_gb=3, shares={"input_wait": 0.3, "padding": 0.2}, resumed=True)
    cost = load_summary(path)["stages"]["plain"]
    assert (cost["seconds"], cost["input_wait"], cost["padding"]) == (40, 0.25, 0.25)
    record_cost(path, "plain", seconds=10, peak_memory_gb=3, resumed=True)  # stopped before it measured any
    assert load_summary(path)["stages"]["plain"]["input_wait"] == 0.25
    for _ in range(2):
        record_cost(path, "dpo", seconds=1, peak_memory_gb=1, counts={"compilations": 3}, resumed=True)
    record_cost(path, "dpo", seconds=1, peak_memory_gb=1, resumed=True)  # stopped before it compiled any
    assert load_summary(path)["stages"]["dpo"]["compilations"] == 6
    record_cost(path, "sfe", seconds=4, peak_memory_gb=1)
    assert load_summary(path)["stages"]["sfe"] == {"seconds": 4, "peak_memory_gb": 1}


def test_the_cost_of_a_resumed_stage_is_added_to_the_earlier_one(tmp_path: Path):
    path = tmp_path / "summary.json"
    record_cost(path, "evaluate", seconds=1000, peak_memory_gb=1)
    with CostMeter() as meter:
        pass
    meter.record(path, "evaluate", resumed=True, counts={"images": 3})
    assert load_summary(path)["stages"]["evaluate"]["seconds"] >= 1000
    assert load_summary(path)["stages"]["evaluate"]["images"] == 3


def test_a_stage_that_did_none_of_its_work_leaves_the_earlier_cost(tmp_path: Path):
    path = tmp_path / "summary.json"
    earlier = {"seconds": 1000, "peak_memory_gb": 1}
    record_cost(path, "evaluate", seconds=1000, peak_memory_gb=1)
    with CostMeter() as meter:
        pass
    meter.record(path, "evaluate", worked=False)
    assert load_summary(path)["stages"]["evaluate"] == earlier
    meter.record(path, "evaluate")
    assert load_summary(path)["stages"]["evaluate"] != earlier
    meter.record(path, "inspect", worked=False)  # there is none that could stand
    assert load_summary(path)["stages"]["inspect"]["seconds"] >= 0


def test_a_score_keeps_what_it_is_of(tmp_path: Path):
    path = tmp_path / "summary.json"
    record_metrics(path, "sfe", "one_shot", {"f1": UNDEFINED}, {"unparsable": 0, "scored_of": "abc"})
    entry = load_summary(path)["metrics"]["sfe"]["one_shot"]
    assert (entry["scored_of"], entry["unparsable"]) == ("abc", 0)
    assert "sfe" in printed_file(path)


def test_an_evaluation_begins_its_entry_anew(tmp_path: Path):
    path, rng = tmp_path / "summary.json", random.Random(0)
    record_metrics(path, "sfe", "one_shot", {"f1": random_metric(rng)}, {"scored_of": "abc"})
    record_metrics(path, "sfe", "one_shot", {"judge": random_metric(rng)}, {"judged": {"failed": 0}})
    record_metrics(path, "sfe", "zero_shot", {"judge": random_metric(rng)})
    assert load_summary(path)["metrics"]["sfe"]["one_shot"].keys() == {"f1", "judge", "judged", "scored_of"}
    record_metrics(path, "sfe", "one_shot", {"f1": random_metric(rng)}, {"scored_of": "def"})
    assert load_summary(path)["metrics"]["sfe"]["one_shot"].keys() == {"f1", "scored_of"}
    assert load_summary(path)["metrics"]["sfe"]["zero_shot"].keys() == {"judge"}


def test_a_meter_measures_a_stage_that_fails_too(tmp_path: Path):
    path, meter = tmp_path / "summary.json", CostMeter()
    with pytest.raises(KeyboardInterrupt), meter:
        raise KeyboardInterrupt
    meter.record(path, "sfe")
    cost = load_summary(path)["stages"]["sfe"]
    assert cost["seconds"] >= 0 and cost["peak_memory_gb"] > 0.01
