"""What a run leaves behind, what it does again and what not, and what it asks of the user."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sage_jax.config import ConfigError, from_config_dict
from sage_jax.config.command_line import read_config
from sage_jax.data.sources.readers import source_revision
from sage_jax.journal.summary import METRICS
from sage_jax.journal.tables import summary_tables
from sage_jax.process.checksums import open_json
from sage_jax.stages.export import check_export
from sage_jax.stages.stages import PACKAGES, run_stages
from tests.support.endpoint_server import marks, served
from tests.support.tiny_run import CONFIG, TRAINED, TinyRun, read_jsonl

ONE_SHOT = {
    name
    for name in METRICS
    if "map" in name or "difference" in name or name.startswith(("pixel", "aupro", "place_agree"))
}
UNDEFINED_HERE = {"reason_kind", "reason_place", "reason_both", "named_though_good", "consistency", "place_agreement"}
"""Over too few answers of ten images to be sure of one."""
ABOUT = {
    "accuracy_by_kind",
    "unparsable",
    "without_verdict",
    "best_constant",
    "text_only",
    "data",
    "revision",
    "scored_of",
    "predictions",
    "detection_by_category",
    "detection_means",
}
INSPECT_COUNTS = {"images", "answer_tokens", "batch_seconds", "first_batch_seconds", "report_seconds"}


def test_stages_run_in_the_order_of_the_config(tiny_run: TinyRun) -> None:
    lines = (tiny_run.run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    order = list(dict.fromkeys(line.split()[2].rstrip(":") for line in lines if line[:2] == "20"))
    assert order == [stage for stage in read_config(["--config", str(CONFIG)]).stage_names if stage in order]
    assert {"prepare", *TRAINED, "inspect"} <= set(order)
    assert list(tiny_run.summary()["stages"]) == list(read_config(["--config", str(CONFIG)]).stage_names)


def test_check_prints_counts_of_both_splits(tiny_run: TinyRun) -> None:
    assert "no faults" in tiny_run.stdout
    assert "Questions by verdict of the best answer" in tiny_run.stdout


def test_the_resolved_config_and_versions_are_kept(tiny_run: TinyRun) -> None:
    kept = json.loads((tiny_run.run_dir / "config.json").read_text())
    overrides = [f"--config.run_dir={tiny_run.run_dir}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
    assert from_config_dict(kept) == read_config(["--config", str(CONFIG), *overrides])
    versions = json.loads((tiny_run.run_dir / "versions.json").read_text())
    assert {name: versions[name] for name in PACKAGES} == {n: importlib.metadata.version(n) for n in PACKAGES}
    assert {"python", "sage_jax"} <= versions.keys()


def test_the_data_revision_is_that_of_the_source(tiny_run: TinyRun) -> None:
    config = read_config(["--config", str(CONFIG)])
    kept = open_json((tiny_run.run_dir / "data.json").read_text())
    assert kept == {"revision": source_revision(config.data, config.seed), "train": 24, "test": 10}


def test_the_summary_has_cost_and_metrics_of_the_promised_form(tiny_run: TinyRun) -> None:
    summary = tiny_run.summary()
    for stage, cost in summary["stages"].items():
        shares = {"input_wait", "padding"} if stage in TRAINED else set()
        counts = {"compilations", "compile_seconds"} if stage in TRAINED else set()
        counts |= INSPECT_COUNTS if stage == "inspect" else set()
        assert cost.keys() == {"seconds", "peak_memory_gb"} | shares | counts
        assert all(0 < cost[name] for name in counts) and cost.get("compilations", 0) <= 6
        assert all(0.0 <= cost[name] < 1.0 for name in shares)
        assert cost["seconds"] >= 0 and 0.1 < cost["peak_memory_gb"] < 6
    assert summary["metrics"].keys() == set(TRAINED)
    for modes in summary["metrics"].values():
        assert modes.keys() == {"zero_shot", "one_shot"}
        for mode, entry in modes.items():
            measured = set(METRICS) - (ONE_SHOT if mode == "zero_shot" else set())
            assert entry.keys() == measured | ABOUT
            for name, metric in ({name: entry[name] for name in measured} | entry["accuracy_by_kind"]).items():
                assert metric.keys() == {"value", "low", "high", "n"}
                if name not in UNDEFINED_HERE or metric["value"] is not None:
                    assert metric["low"] <= metric["value"] <= metric["high"] and metric["n"] > 0, name


def test_the_final_table_is_printed_from_the_summary(tiny_run: TinyRun) -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(summary_tables(tiny_run.summary()))
    table = [line.rstrip() for line in captured.get().splitlines()]
    assert [line.rstrip() for line in tiny_run.stdout.splitlines()][-len(table) :] == table
    accuracy = tiny_run.summary()["metrics"]["sfe"]["one_shot"]["verdict_accuracy"]["value"]
    assert f"{accuracy:.3f}" in tiny_run.stdout


@pytest.fixture
def copied(tiny_run: TinyRun, tmp_path: Path) -> Iterator[Any]:
    """Runs stages in this process on a copy of the tiny run's folder."""
    shutil.copytree(tiny_run.run_dir, tmp_path / "run")

    def start(stages: str, *overrides: str) -> Path:
        fields = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
        run_stages(read_config(["--config", str(CONFIG), *fields, f"--config.stages={stages}", *overrides]))
        return tmp_path / "run"

    yield start


def test_a_finished_stage_is_not_trained_again_and_keeps_its_cost(
    tiny_run: TinyRun, copied: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = copied("base,sfe", "--config.sfe.steps=21")
    said = capfd.readouterr().err
    assert "base: finished before; delete" in said
    assert "the config has changed since it was trained:\n  sfe.steps: 20 -> 21" in said
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["stages"]["base"] == tiny_run.summary()["stages"]["base"]
    assert (run_dir / "metrics.jsonl").read_bytes() == (tiny_run.run_dir / "metrics.jsonl").read_bytes()


def test_the_last_trained_stage_is_exported_with_its_data_recipe_and_scores(
    tiny_run: TinyRun, copied: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copied("export") / "export"
    assert {"config.json", "model.safetensors", "sage_fusion.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    data = json.loads((tiny_run.run_dir / "data.json").read_text())
    assert f"revision: `{data['revision']}`" in card and "24 training and 10 test records" in card
    assert "Stages, in order: base, sfe, edpo." in card and "steps `4`" in card
    accuracy = tiny_run.summary()["metrics"]["edpo"]["one_shot"]["verdict_accuracy"]
    assert f"| Verdict accuracy | one-shot | {accuracy['value']:.3f} |" in card
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    copied("export")  # as after a kill behind the export
    assert "edpo was exported before: " in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    with pytest.raises(ConfigError, match=r"export is there already: delete it, or give another"):
        copied("export", "--config.export.dtype=float32")
    config = read_config(["--config", str(CONFIG), f"--config.run_dir={folder.parent}"])
    check_export(config)
    with pytest.raises(ConfigError, match=r"export is there already: delete it, or give another"):
        check_export(config, trains=True)  # what stands there is then an earlier model
    (folder / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"export is there already: delete it, or give another"):
        copied("export")


def test_the_answers_of_an_evaluation_are_judged(tiny_run: TinyRun, copied: Any) -> None:
    with served(lambda body, number: marks(4, 4, 4)) as server:
        options = [f"--config.judge.base_url={server.url}", "--config.judge.model=judge-1"]
        run_dir = copied("judge", *options, "--config.judge.stages=('sfe',)")
        asked = len(server.bodies)
    entries = json.loads((run_dir / "summary.json").read_text())["metrics"]["sfe"]
    before = tiny_run.summary()["metrics"]["sfe"]
    for mode, entry in entries.items():
        rows, items = (read_jsonl(run_dir / name / f"sfe_{mode}.jsonl") for name in ("judgements", "predictions"))
        assert [row["test_answer"] for row in rows] == [item["prediction"] for item in items]
        assert entry["judge"]["value"] == 4.0 and entry["judge"]["n"] == len(items)
        assert {name: entry[name] for name in before[mode]} == before[mode]
    assert 0 < asked <= sum(entry["judge"]["n"] for entry in entries.values())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("sfe", "stage 'sfe' needs stage 'base', .* run with --config.stages=base,sfe"),
        ("edpo", "stage 'edpo' needs stage 'sfe', .* run with --config.stages=base,sfe,edpo"),
        ("sfe,base", "stage 'sfe' needs stage 'base'"),
        ("evaluate", "stage 'evaluate' needs stage 'sfe', .* run with --config.stages=base,sfe,evaluate"),
        ("prepare,inspect", "stage 'inspect' needs stage 'sfe', .* run with --config.stages=base,sfe,inspect"),
        ("export,base", "stage 'export' needs stage 'sfe', .* run with --config.stages=base,sfe,export"),
    ],
)
def test_a_stage_without_the_model_it_needs_says_how_to_train_it(tmp_path: Path, stages: str, message: str) -> None:
    config = read_config(["--config", str(CONFIG), f"--config.stages={stages}", f"--config.run_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match=message):
        run_stages(config)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    config = read_config(["--config", str(CONFIG), "--config.stages=prepare", f"--config.run_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match=r"run_dir = .*run' cannot be written"):
        run_stages(config)
