"""Stage `learn` on a tiny run: a version is made, measured, chosen and taken back, and a stop goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sage_jax
from sage_jax.cli import main
from sage_jax.config import Config, LearnConfig
from sage_jax.corrections.entries import finding_of
from sage_jax.corrections.store import store_of
from sage_jax.data import store as stored
from sage_jax.data.records import Record
from sage_jax.errors import UserError
from sage_jax.stages.learning import check_learning, version_config
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from sage_jax.stages.versions import active_version, read_report, use_version, version_folder
from sage_jax.training.finished import final_weights
from tests.support.tiny_run import TinyRun

pytestmark = pytest.mark.usefixtures("one_device")

LESSON: dict[str, Any] = {"steps": 3, "warmup_steps": 1, "batch_size": 8, "replay": 0.5, "least": 6}


def images_of(folder: Path) -> Iterator[Record]:
    seen: set[str] = set()
    split = stored.open_split(Run(config_of(folder)).prepared, "train")
    for index in range(len(split)):
        if split[index].image_id not in seen:
            seen.add(split[index].image_id)
            yield split[index]


@pytest.fixture(scope="module")
def folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose operator has corrected eight images: every second one good, all by the truth."""
    copied = Path(shutil.copytree(tiny_run.run_dir, tmp_path_factory.mktemp("learn") / "run"))
    inspector, store = sage_jax.load(copied), store_of(copied)
    threshold = inspector.threshold().value
    chosen = {truth: [each for each in images_of(copied) if each.anomalous == truth][:4] for truth in (True, False)}
    for record in (*chosen[True], *chosen[False]):
        references = [record.reference_image or b""]
        found = inspector.inspect(record.test_image, references, category=record.category)
        number = store.add_inspection(finding_of(found, record.test_image, references, threshold=threshold))
        kind = record.defects[0].type if record.defects else ""
        store.correct(number, "Ada", verdict="defective" if record.anomalous else "good", kind=kind)
    return copied


def learn(folder: Path, **fields: Any) -> None:
    config = config_of(folder)
    lesson = dataclasses.replace(config.learn, **{**LESSON, **fields})
    run_stages(dataclasses.replace(config, learn=lesson, stages="learn"))


@pytest.fixture(scope="module")
def learnt(folder: Path) -> Path:
    """The same run with a version."""
    learn(folder)
    return folder


def test_a_version_is_another_model_and_the_run_answers_as_before(learnt: Path) -> None:
    version = version_folder(learnt, 1)
    report = read_report(version)
    assert active_version(learnt) == 0 and config_of(learnt).run_dir == str(learnt)
    assert final_weights(version / "stages" / "learn") != final_weights(learnt / "stages" / "edpo")
    assert len(report["learnt"]["trained"]) == 6 and len(report["learnt"]["held_out"]) == 2
    assert not {*report["learnt"]["trained"]} & {*report["learnt"]["held_out"]}
    measures = report["measures"]
    assert (measures["corrections_held_out"]["gain"]["n"], measures["corrections_trained"]["gain"]["n"]) == (2, 6)
    assert measures["test_verdicts"]["gain"]["n"] == 10
    assert report["calibration"] == {"before": None, "after": None, "fault": ""}
    assert report["offered"] == (not any(each["fell"] for each in measures.values()))


def test_inspection_uses_the_version_that_is_chosen(learnt: Path) -> None:
    record = next(images_of(learnt))

    def score() -> float | None:
        return sage_jax.load(learnt).inspect(record.test_image, [record.reference_image or b""]).score

    before = score()
    use_version(learnt, 1)
    assert sage_jax.load(learnt).stage == "learn"
    assert score() != before
    use_version(learnt, 0)
    assert sage_jax.load(learnt).stage == "edpo" and score() == before


def test_the_next_version_goes_on_from_the_one_that_answers(learnt: Path) -> None:
    use_version(learnt, 1)
    learn(learnt, accept=True, test_records=2)
    report = read_report(version_folder(learnt, 2))
    assert report["from_version"] == 1 and active_version(learnt) == (2 if report["offered"] else 1)
    done = json.loads((version_folder(learnt, 2) / "stages" / "learn" / "DONE.json").read_text())
    assert done["starts_from"] == final_weights(version_folder(learnt, 1) / "stages" / "learn")
    assert report["measures"]["test_verdicts"]["gain"]["n"] == 2
    use_version(learnt, 0)


def test_a_version_moved_with_its_run_still_answers(learnt: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(learnt, tmp_path / "elsewhere"))
    use_version(moved, 1)
    assert sage_jax.load(moved).stage == "learn"


def test_what_stops_it_is_told_before_anything_is_computed(folder: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 corrected images are too few .* correct 9 or more, or lower learn.least"):
        learn(folder, least=9)
    with pytest.raises(UserError, match="there are no corrections of this run yet"):
        learn(tiny_run.run_dir)
    config = config_of(folder)
    facts = dataclasses.replace(config, data=dataclasses.replace(config.data, facts="model"))
    with pytest.raises(UserError, match=r"data\.facts = 'model'"):
        check_learning(Run(facts))
    with pytest.raises(UserError, match="stage 'learn' needs stage 'sfe'"):
        check_learning(Run(dataclasses.replace(config, run_dir=str(tmp_path))))
    assert main(["learn", "--model", str(tmp_path / "none")]) == 2


def test_a_model_on_given_weights_gets_adapters_and_others_do_not(tmp_path: Path) -> None:
    config = Config()
    assert version_config(config, tmp_path).learn.lora.rank == 0
    given = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="weights"))
    assert version_config(given, tmp_path).learn.lora.rank == 16
    lora = dataclasses.replace(LearnConfig().lora, rank=4)
    own = dataclasses.replace(given, learn=LearnConfig(lora=lora))
    assert version_config(own, tmp_path).learn.lora.rank == 4
