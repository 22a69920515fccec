"""`summary.json`, its tables and the ablation."""

from __future__ import annotations

import contextlib
import io
import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from sage_jax.journal.summary import (
    ABLATION_ROWS,
    HEADINGS,
    MODELS,
    MODES,
    ablation_table,
    load_summary,
    print_summary,
    record_cost,
    record_metrics,
    stage_cost,
    write_ablation,
)
from sage_jax.metrics.intervals import UNDEFINED, Metric

KINDS = ("standard comparison", "defect identification", "defect diagnosis")


def random_metric(rng: random.Random, low: float = 0.5, high: float = 1.0) -> Metric:
    value = rng.uniform(low, high)
    return Metric(value, value - rng.uniform(0.01, 0.05), value + rng.uniform(0.01, 0.05), rng.randrange(100, 2000))


def full_summary(path: Path, seed: int, mle: dict[str, float] | None = None) -> dict[str, Any]:
    rng = random.Random(seed)
    for model in MODELS:
        for mode in MODES:
            metrics = {name: random_metric(rng) for name in HEADINGS}
            level = (mle or {}).get(model, 3.0)
            metrics["mle"] = Metric(level, level - 0.1, level + 0.1, 100)
            kinds = {kind: random_metric(rng) for kind in KINDS}
            record_metrics(path, model, mode, metrics, accuracy_by_kind=kinds, unparsable=rng.randrange(99))
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
    record_metrics(path, "sfe", "one_shot", {"verdict_accuracy": accuracy}, unparsable=7)
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


def test_every_metric_holds_value_interval_and_count(tmp_path: Path):
    summary = full_summary(tmp_path / "summary.json", 1)
    for model in MODELS:
        for mode in MODES:
            entry = summary["metrics"][model][mode]
            assert entry.keys() == HEADINGS.keys() | {"accuracy_by_kind", "unparsable"}
            for metric in [*(entry[name] for name in HEADINGS), *entry["accuracy_by_kind"].values()]:
                assert metric.keys() == {"value", "low", "high", "n"}


def test_table_is_printed_from_the_file_and_fits_100_columns(tmp_path: Path):
    path = tmp_path / "summary.json"
    full_summary(path, 2)
    content = json.loads(path.read_text(encoding="utf-8"))
    accuracy = {"value": 0.123456, "low": 0.1, "high": 0.2, "n": 4321}
    content["metrics"]["edpo"]["one_shot"]["verdict_accuracy"] = accuracy
    content["metrics"]["base"]["zero_shot"]["pixel_auroc"] = vars(UNDEFINED)
    path.write_text(json.dumps(content), encoding="utf-8")
    text = printed_file(path)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    assert "0.123" in text and "±0.050" in text and "4321" in text and "–" in text
    assert "1 min 23 s" in text and "3.21 GB" in text
    for model in MODELS:
        assert model in text
    lines = text.splitlines()
    assert sum("zero-shot" in line for line in lines) == sum("one-shot" in line for line in lines) == 2 * len(MODELS)


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


def test_whether_a_stage_resumed_is_asked_when_it_ends(tmp_path: Path):
    path, resumed = tmp_path / "summary.json", []
    record_cost(path, "evaluate", seconds=1000, peak_memory_gb=1)
    with stage_cost(path, "evaluate", resumed=lambda: bool(resumed)):
        resumed.append("zero_shot")
    assert load_summary(path)["stages"]["evaluate"]["seconds"] >= 1000


@pytest.mark.parametrize("fails", [False, True])
def test_a_stage_that_did_none_of_its_work_leaves_the_earlier_cost(tmp_path: Path, fails: bool):
    path, worked = tmp_path / "summary.json", []
    earlier = {"seconds": 1000, "peak_memory_gb": 1}
    record_cost(path, "evaluate", seconds=1000, peak_memory_gb=1)
    error = pytest.raises(ValueError, match="no records") if fails else contextlib.nullcontext()
    with error, stage_cost(path, "evaluate", worked=lambda: bool(worked)):
        if fails:
            raise ValueError("no records")
    assert load_summary(path)["stages"]["evaluate"] == earlier
    with stage_cost(path, "evaluate", worked=lambda: bool(worked)):
        worked.append("zero_shot")
    assert load_summary(path)["stages"]["evaluate"] != earlier
    with stage_cost(path, "inspect", worked=lambda: False):  # there is none that could stand
        pass
    assert load_summary(path)["stages"]["inspect"]["seconds"] >= 0


def test_a_score_keeps_what_it_is_of(tmp_path: Path):
    path = tmp_path / "summary.json"
    record_metrics(path, "sfe", "one_shot", {"f1": UNDEFINED}, unparsable=0, scored_of="abc")
    entry = load_summary(path)["metrics"]["sfe"]["one_shot"]
    assert (entry["scored_of"], entry["unparsable"]) == ("abc", 0)
    assert "sfe" in printed_file(path)


def test_cost_of_an_interrupted_stage_is_written(tmp_path: Path):
    path = tmp_path / "summary.json"
    with pytest.raises(KeyboardInterrupt), stage_cost(path, "sfe"):
        raise KeyboardInterrupt
    cost = load_summary(path)["stages"]["sfe"]
    assert cost["seconds"] >= 0 and cost["peak_memory_gb"] > 0.01


def test_ablation_holds_median_range_and_an_interval_no_narrower_than_one_seeds(tmp_path: Path):
    summaries = {seed: full_summary(tmp_path / str(seed) / "summary.json", seed) for seed in (0, 1, 2)}
    ablation = write_ablation(tmp_path, summaries)
    assert json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8")) == ablation
    entry = ablation["rows"]["sfe"]["one_shot"]["acc_g"]
    seeds = [summary["metrics"]["sfe"]["one_shot"]["acc_g"] for summary in summaries.values()]
    values = [metric["value"] for metric in seeds]
    assert (entry["min"], entry["median"], entry["max"]) == tuple(sorted(values))
    mean_width = statistics.fmean(metric["high"] - metric["low"] for metric in seeds)
    assert entry["high"] == 1.0 or entry["high"] - entry["low"] >= mean_width
    assert entry["low"] < statistics.fmean(values) < entry["high"]
    assert max(len(line) for line in printed(ablation_table(ablation)).splitlines()) <= 100


def test_pooled_interval_of_equal_seeds_is_that_of_one_seed(tmp_path: Path):
    summary = full_summary(tmp_path / "summary.json", 0)
    entry = write_ablation(tmp_path, dict.fromkeys(range(4), summary))["rows"]["dpo"]["zero_shot"]["mle"]
    assert (entry["low"], entry["high"]) == pytest.approx((2.9, 3.1))


def test_order_counts_the_seeds_in_which_each_row_is_no_worse_than_the_one_above(tmp_path: Path):
    rising = {"base": 2.0, "plain": 2.5, "sfe": 3.0, "dpo": 3.5, "edpo": 4.0}
    swapped = rising | {"sfe": 2.2}
    levels = (rising, swapped, rising)
    summaries = {seed: full_summary(tmp_path / f"{seed}.json", seed, mle) for seed, mle in enumerate(levels)}
    del summaries[2]["metrics"]["dpo"]
    ablation = write_ablation(tmp_path, summaries)
    held = {(step["lower"], step["higher"]): (step["held"], step["seeds"]) for step in ablation["order"]["one_shot"]}
    assert held == {
        ("base", "plain"): (3, 3),
        ("plain", "sfe"): (2, 3),
        ("sfe", "dpo"): (2, 2),
        ("dpo", "edpo"): (2, 2),
    }


def test_markdown_table_has_a_row_for_each_model_and_a_dash_where_nothing_was_measured(tmp_path: Path):
    summary = full_summary(tmp_path / "summary.json", 0)
    del summary["metrics"]["plain"]
    write_ablation(tmp_path, {0: summary})
    lines = (tmp_path / "ablation.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {7}
    assert [row[0].strip() for row in rows[2:]] == list(ABLATION_ROWS.values())
    assert all(cell.strip() == "–" for cell in rows[3][1:])
    value = summary["metrics"]["edpo"]["zero_shot"]["verdict_accuracy"]["value"]
    assert f"{value:.3f}" in rows[-1][1]


def test_ablation_without_seeds_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="ablate.seeds"):
        write_ablation(tmp_path, {})
