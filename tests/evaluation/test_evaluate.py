"""The metrics in the summary are those of the predictions that were written."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config.command_line import read_config
from sage_jax.data.trees.encode import TreeError
from sage_jax.evaluation import detection
from sage_jax.stages import scoring
from sage_jax.stages.stages import run_stages
from tests.support.tiny_run import CONFIG, TRAINED, TinyRun, read_jsonl

STAGE_MODES = list(product(TRAINED, ("zero_shot", "one_shot")))
FIELDS = {"id", "image", "label", "question", "answer", "prediction", "ground_truth", "dichotomy", "pair_type"}


@pytest.mark.parametrize(("stage", "mode"), STAGE_MODES)
def test_metrics_equal_a_recomputation_from_the_predictions(tiny_run: TinyRun, stage: str, mode: str) -> None:
    rows = read_jsonl(tiny_run.run_dir / "predictions" / f"{stage}_{mode}.jsonl")
    entry = tiny_run.summary()["metrics"][stage][mode]
    right = np.array([row["dichotomy"] is row["ground_truth"] for row in rows])
    assert entry["verdict_accuracy"]["value"] == pytest.approx(right.mean())
    assert entry["verdict_accuracy"]["n"] == len(rows)
    records, kinds = defaultdict(list), defaultdict(list)
    for row, is_right in zip(rows, right, strict=True):
        records[row["id"]].append(is_right)
        kinds[row["pair_type"]].append(is_right)
    assert entry["acc_g"]["value"] == pytest.approx(np.mean([all(each) for each in records.values()]))
    by_kind = {kind: metric["value"] for kind, metric in entry["accuracy_by_kind"].items()}
    assert by_kind == pytest.approx({kind: np.mean(each) for kind, each in kinds.items()})
    assert entry["unparsable"] == sum(row["dichotomy"] is None for row in rows)
    assert entry["mle"]["value"] == pytest.approx(np.mean([row["mle"]["average"] for row in rows]))
    asked = [row["reason"] for row in rows if row["pair_type"] == "standard comparison" and row["label"] != "good"]
    assert asked and None not in asked
    for name in ("kind", "place", "both"):
        assert entry[f"reason_{name}"]["value"] == pytest.approx(np.mean([reason[name] for reason in asked]))
    assert all(row["reason"] is None for row in rows if row["label"] == "good")


def test_answers_without_a_verdict_are_counted_and_wrong(tiny_run: TinyRun) -> None:
    entry = tiny_run.summary()["metrics"]["base"]["zero_shot"]
    assert entry["unparsable"] > 0
    assert entry["verdict_accuracy"]["value"] <= 1 - entry["unparsable"] / entry["verdict_accuracy"]["n"]


def test_sfe_taught_the_model_to_open_with_a_verdict(tiny_run: TinyRun) -> None:
    metrics = tiny_run.summary()["metrics"]
    assert metrics["sfe"]["one_shot"]["unparsable"] < metrics["base"]["one_shot"]["unparsable"]
    assert metrics["sfe"]["one_shot"]["verdict_accuracy"]["value"] > 0.2


def test_predictions_have_the_released_fields_and_every_test_question(tiny_run: TinyRun) -> None:
    config = read_config(["--config", str(CONFIG)])
    for stage, mode in STAGE_MODES:
        rows = read_jsonl(tiny_run.run_dir / "predictions" / f"{stage}_{mode}.jsonl")
        assert len(rows) == 5 * config.data.num_test
        for row in rows:
            assert row.keys() == FIELDS | {"verdict_score", "mle", "reason"}
            assert 0.0 <= row["verdict_score"] <= 1.0
            assert 1.0 <= row["mle"]["average"] <= 5.0


def test_a_reference_changes_the_answers_scores(tiny_run: TinyRun) -> None:
    zero, one = (read_jsonl(tiny_run.run_dir / "predictions" / f"sfe_{m}.jsonl") for m in ("zero_shot", "one_shot"))
    assert [row["question"] for row in zero] == [row["question"] for row in one]
    assert [row["verdict_score"] for row in zero] != [row["verdict_score"] for row in one]


def test_pixel_auroc_needs_a_reference(tiny_run: TinyRun) -> None:
    for modes in tiny_run.summary()["metrics"].values():
        assert "pixel_auroc" not in modes["zero_shot"]
        assert modes["one_shot"]["pixel_auroc"]["value"] is not None


@pytest.fixture
def evaluated(tiny_run: TinyRun, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Evaluates base on three test records, in this process, on a copy of the tiny run's folder."""
    shutil.copytree(tiny_run.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("inspect", "checkpoints"))

    def start(*overrides: str) -> Path:
        folders = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tiny_run.folder / 'cache'}"]
        few = ["--config.stages=evaluate", "--config.evaluate.stages=('base',)", "--config.evaluate.num_records=3"]
        run_stages(read_config(["--config", str(CONFIG), *folders, *few, *overrides]))
        return tmp_path / "run"

    yield start


def scored_before(said: str) -> set[str]:
    return set(re.findall(r"(\w+, \w+-shot): scored before, with the same model, data and config", said))


def test_a_mode_scored_before_is_left_and_the_other_one_is_done(
    evaluated: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = evaluated()
    assert scored_before(capfd.readouterr().err) == set()  # the tiny run's own scores are of more records
    whole = json.loads((run_dir / "summary.json").read_text())
    assert whole["metrics"]["base"]["zero_shot"]["verdict_accuracy"]["n"] == 15
    # As a kill leaves it between the modes.
    part = json.loads(json.dumps(whole))
    del part["metrics"]["base"]["one_shot"], part["checksum"]
    (run_dir / "summary.json").write_text(json.dumps(part))
    times = {path.name: path.stat().st_mtime_ns for path in (run_dir / "predictions").iterdir()}
    evaluated()
    assert scored_before(capfd.readouterr().err) == {"base, zero-shot"}
    again = json.loads((run_dir / "summary.json").read_text())
    assert again["metrics"] == whole["metrics"]
    assert again["stages"]["evaluate"]["seconds"] > whole["stages"]["evaluate"]["seconds"]
    changed = [path.name for path in (run_dir / "predictions").iterdir() if path.stat().st_mtime_ns != times[path.name]]
    assert sorted(changed) == ["base_one_shot.json", "base_one_shot.jsonl"]


def test_an_evaluation_that_scores_nothing_leaves_the_cost_of_the_one_before(
    evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = evaluated()
    cost = json.loads((run_dir / "summary.json").read_text())["stages"]["evaluate"]
    evaluated()  # finds both modes scored
    assert json.loads((run_dir / "summary.json").read_text())["stages"]["evaluate"] == cost

    def too_long(*_: object) -> None:
        raise TreeError("a question is too long")

    monkeypatch.setattr(scoring, "check_text", too_long)
    with pytest.raises(TreeError):
        evaluated("--config.evaluate.bootstrap_samples=51")
    assert json.loads((run_dir / "summary.json").read_text())["stages"]["evaluate"] == cost


def test_what_decides_a_score_makes_it_anew(
    tiny_run: TinyRun, evaluated: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    both = {"base, zero-shot", "base, one-shot"}
    run_dir = evaluated()
    evaluated("--config.evaluate.stages=('base', 'base')", "--config.inspect.threshold=0.9")
    assert scored_before(capfd.readouterr().err) == both
    (run_dir / "predictions" / "base_zero_shot.jsonl").unlink()
    evaluated()
    assert scored_before(capfd.readouterr().err) == {"base, one-shot"}
    evaluated("--config.evaluate.bootstrap_samples=51")
    assert scored_before(capfd.readouterr().err) == set()
    # Weights of another training under the same name.
    shutil.rmtree(run_dir / "stages" / "base")
    shutil.copytree(tiny_run.run_dir / "stages" / "plain", run_dir / "stages" / "base")
    evaluated("--config.evaluate.bootstrap_samples=51")
    assert scored_before(capfd.readouterr().err) == set()


def test_every_pass_shows_its_progress(evaluated: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    evaluated()
    said = capfd.readouterr().err
    units = ("base zero-shot record", "base, zero-shot detection batch", "base, zero-shot ranking batch")
    for unit in (*units, *(unit.replace("zero", "one") for unit in units), "base, one-shot map"):
        assert re.search(rf"evaluate (\d+)/\1  .*{unit}", said), unit


def test_maps_are_made_when_asked_for(evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the maps of an evaluation only the one at work is in memory, not all of them."""
    maps: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    made = detection.anomaly_map

    def watched(*arguments: Any) -> Any:
        found = made(*arguments)
        maps.append(weakref.ref(found.values))
        alive.append(sum(each() is not None for each in maps))
        return found

    monkeypatch.setattr(detection, "anomaly_map", watched)
    evaluated()
    assert len(maps) == 2 * 3 * 2 and max(alive) <= 2  # over all images, and over those of each category
