"""Stage `calibrate`: the threshold that inspection then uses, and what it says of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from scipy import special

import sage_jax
from sage_jax.config import CalibrateConfig, DataConfig
from sage_jax.data.sources.generated import draw
from sage_jax.errors import UserError
from sage_jax.metrics.joint_score import spread_weights
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.stages import joining
from sage_jax.stages.calibration import threshold_of
from sage_jax.stages.open_model import config_of
from tests.support.tiny_run import TinyRun, read_jsonl, run_main

pytestmark = pytest.mark.usefixtures("one_device")

GOOD, DEFECTIVE = 24, 8


@pytest.fixture(scope="module")
def run_folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_run.run_dir, tmp_path_factory.mktemp("calibrate") / "run"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of good and of defective images, one of them unreadable."""
    folder = tmp_path_factory.mktemp("parts")
    drawn = list(draw(DataConfig(num_train=60, num_test=1, image_px=40), "train", 9))
    for name, number, defective in (("good", GOOD, False), ("defective", DEFECTIVE, True)):
        (folder / name).mkdir()
        chosen = [image for image in drawn if bool(image.defects) == defective][:number]
        assert len(chosen) == number
        for index, image in enumerate(chosen):
            (folder / name / f"{index:02}.png").write_bytes(image.test_image)
    (folder / "defective" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def calibration(run_folder: Path, parts: Path) -> dict[str, object]:
    return sage_jax.calibrate(
        run_folder,
        parts / "good",
        parts / "defective",
        references=parts / "good" / "00.png",
        false_alarm_rate=0.1,
    )


def test_the_threshold_is_the_conformal_one_of_the_rows(run_folder: Path, calibration: dict[str, object]) -> None:
    scores = {
        label: [row["score"] for row in read_jsonl(run_folder / "calibration" / label / "inspection.jsonl")]
        for label in ("good", "defective")
    }
    assert len(scores["good"]) == GOOD and scores["defective"].count(None) == 1
    highest = sorted(scores["good"])[math.ceil((GOOD + 1) * 0.9) - 1]
    threshold = float(str(calibration["threshold"]))
    assert highest < threshold <= highest + 2e-6
    assert calibration["promised"] == 2 / 25 and calibration["with_reference"] is True
    missed = [score for score in scores["defective"] if score is not None and score < threshold]
    assert (calibration["escapes"], calibration["num_defective"]) == (len(missed), DEFECTIVE)
    picture = (run_folder / "calibration.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_inspection_uses_it_and_says_so(run_folder: Path, parts: Path, calibration: dict[str, object]) -> None:
    inspector = sage_jax.load(run_folder)
    chosen = inspector.threshold(with_reference=True)
    assert chosen.value == calibration["threshold"] and "24 calibrated on, 8.00% or fewer" in chosen.promise
    assert "95 % confidence" in chosen.promise
    alone = inspector.threshold(with_reference=False)
    assert alone.value == 0.5 and "of images with a reference" in alone.promise
    image, reference = parts / "defective" / "00.png", parts / "good" / "00.png"
    found = inspector.inspect(image, references=reference)
    assert found.score is not None and (found.verdict == "defective") == (found.score >= chosen.value)
    by_hand = sage_jax.load(run_folder, threshold=found.score + 1e-4)
    assert by_hand.inspect(image, references=reference).verdict == "good"
    assert "set by hand" in by_hand.threshold().promise
    output = run_folder / "looked"
    fields = {"images": str(parts / "defective"), "references": str(reference), "output": str(output)}
    sage_jax.train(
        _with_inspection(run_folder, **fields),
        stages="inspect",
    )
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Promise" in page and "24 calibrated on" in page
    rows = {Path(row["image"]).name: row for row in read_jsonl(output / "inspection.jsonl")}
    assert all(
        (row["verdict"] == "defective") == (row["score"] >= chosen.value)
        for row in rows.values()
        if row["score"] is not None
    )


def _with_inspection(folder: Path, **fields: str) -> sage_jax.Config:
    config = config_of(folder)
    return dataclasses.replace(config, inspect=dataclasses.replace(config.inspect, **fields))


def test_words_are_those_of_the_verdict_that_the_threshold_gives(run_folder: Path, parts: Path) -> None:
    image, reference = parts / "defective" / "01.png", parts / "good" / "01.png"
    plain = sage_jax.load(run_folder)
    for compared in (reference, None):
        score = plain.inspect(image, references=compared).score
        assert score is not None
        for threshold, opens in ((0.0, "Yes"), (score - 1e-4, "Yes"), (score + 1e-4, "No"), (1.0, "No")):
            found = sage_jax.load(run_folder, threshold=threshold).inspect(
                image, references=compared, questions=["Is there a dent on this part?"]
            )
            assert found.score == pytest.approx(score, abs=1e-5)
            assert found.reason.startswith((opens, {"Yes": "True", "No": "False"}[opens]))
            assert (found.verdict == "defective") == (opens == "Yes")


def test_a_forced_verdict_still_opens_the_answer_where_the_map_chooses_places(
    run_folder: Path, parts: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about["evaluate"]["decoding"]["map_places"] = 1.0
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "config.json.sha256").unlink()
    for threshold, opens in ((0.0, ("Yes", "True")), (1.0, ("No", "False"))):
        inspector = sage_jax.load(folder, threshold=threshold)
        found = inspector.inspect(parts / "defective" / "01.png", references=parts / "good" / "01.png")
        assert found.reason.startswith(opens), found.reason


def test_a_calibration_of_another_model_is_not_used(run_folder: Path, calibration: dict[str, object]) -> None:
    path = run_folder / "calibration.json"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(json.dumps(sealed_json(open_json(before) | {"model": "0" * 24})), encoding="utf-8")
        found = sage_jax.load(run_folder).threshold()
        assert found.value == 0.5 and "of another model" in found.promise
        path.write_text(json.dumps(sealed_json(open_json(before) | {"shifts": {"wrong": 1}})), encoding="utf-8")
        with pytest.raises(UserError, match=r"calibration\.json: .*delete it, and calibrate again"):
            sage_jax.load(run_folder)
        path.write_text(before[:40], encoding="utf-8")
        with pytest.raises(UserError, match=r"calibration\.json: .*delete it, and calibrate again"):
            sage_jax.load(run_folder)
    finally:
        path.write_text(before, encoding="utf-8")


def test_a_calibration_with_another_number_of_references_is_not_used(
    run_folder: Path, calibration: dict[str, object]
) -> None:
    assert calibration["num_references"] == 1
    inspector = sage_jax.load(run_folder)
    for number, used in ((0, True), (1, True), (4, False)):
        config = inspector.config
        config = dataclasses.replace(config, inspect=dataclasses.replace(config.inspect, num_references=number))
        found = threshold_of(config, inspector._model.evaluator, inspector.stage, with_reference=True)
        assert (found.value == calibration["threshold"]) == used
        assert used or "with up to 1 references, not 4" in found.promise


def test_a_calibration_that_is_gone_is_told_and_without_one_nobody_chose(
    run_folder: Path, parts: Path, calibration: dict[str, object], tmp_path: Path
) -> None:
    assert calibration["familiarity"] is True
    shutil.copytree(parts / "good", tmp_path / "few")
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    known = (folder / "familiarity.npz").rename(tmp_path / "known.npz")
    with pytest.raises(UserError, match=r"familiarity\.npz: gone: bring it back"):
        sage_jax.load(folder)
    shutil.copy(known, folder / "familiarity.npz")
    (folder / "calibration.json").unlink()
    with pytest.raises(UserError, match=r"calibration\.json: gone, though this run was calibrated: bring it back"):
        sage_jax.load(folder)
    assert sage_jax.load(folder, threshold=0.5).threshold().promise == "none: the threshold was set by hand"
    (folder / "calibration.png").unlink()
    with pytest.raises(
        UserError, match="promise a rate of false alarms"
    ):  # is in the summary, and has calibrated nothing
        sage_jax.calibrate(folder, tmp_path / "few", false_alarm_rate=0.01)
    found = sage_jax.load(folder).threshold()
    assert found.value == 0.5 and "nobody chose" in found.promise


def test_a_threshold_once_set_by_hand_does_not_win_over_a_later_calibration(
    run_folder: Path, parts: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about["inspect"]["threshold"] = 0.9  # as `inspect --threshold 0.9` leaves it
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "config.json.sha256").unlink()
    assert "set by hand" in sage_jax.load(folder).threshold().promise
    made = sage_jax.calibrate(folder, parts / "good", references=parts / "good" / "00.png", false_alarm_rate=0.1)
    assert sage_jax.load(folder).threshold().value == made["threshold"]


def test_a_score_of_verdict_and_map_is_learnt_on_some_images_and_calibrated_on_the_others(
    run_folder: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_LEAST", {"good": 8, "defective": 4})
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    given = {"references": parts / "good" / "00.png", "false_alarm_rate": 0.1}
    made = sage_jax.calibrate(folder, parts / "good", parts / "defective", **given)
    joint = made["joint_score"]
    assert joint["verdict"] >= 0.0 and joint["map"] >= 0.0 and joint["verdict"] + joint["map"] > 0.0
    assert (made["num_good"], made["num_defective"]) == (16, 4)
    taught, rest = (
        {row["image"] for row in read_jsonl(folder / "calibration" / name / "inspection.jsonl")}
        for name in ("good_to_join", "good")
    )
    assert len(taught) == 8 and len(rest) == 16 and not taught & rest
    inspector, plain = sage_jax.load(folder), sage_jax.load(folder, threshold=0.5)
    assert "joins the verdict with the map" in inspector.threshold().promise
    assert inspector.threshold(with_reference=False).joint_score is None
    for name in ("good/01.png", "defective/02.png"):
        ours, alone = (one.inspect(parts / name, parts / "good" / "00.png") for one in (inspector, plain))
        assert ours.score is not None and alone.score is not None and alone.map_peak is not None
        logit = joint["verdict"] * special.logit(alone.score) + joint["map"] * alone.map_peak + joint["offset"]
        assert alone.difference_peak is None and joint["difference"] == 0.0, "the model is not one of registered pairs"
        assert ours.score == pytest.approx(special.expit(logit), rel=1e-3)
        assert ours.verdict == ("defective" if ours.score >= made["threshold"] else "good")
        assert ours.reason.startswith(("Yes", "True") if ours.verdict == "defective" else ("No", "False"))
        without = [one.inspect(parts / name).score for one in (inspector, plain)]
        assert without[0] == without[1]
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "AUROC on the other images: joined " in log
    sage_jax.train(_with_inspection(folder, output=str(tmp_path / "looked")), stages="inspect")
    report = (tmp_path / "looked" / "report.html").read_text(encoding="utf-8")
    assert "the score joins the verdict with the map" in report


def test_without_defective_images_the_score_is_joined_by_the_spread_of_good_ones(
    run_folder: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_LEAST", {"good": 8, "defective": 4})
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    made = sage_jax.calibrate(folder, parts / "good", references=parts / "good" / "00.png", false_alarm_rate=0.1)
    assert (made["num_good"], made["num_defective"]) == (16, 0) and made["escape_bound"] is None
    taught, rest = (read_jsonl(folder / "calibration" / name / "inspection.jsonl") for name in ("good_to_join", "good"))
    assert len(taught) == 8 and len(rest) == 16
    assert not {row["image"] for row in taught} & {row["image"] for row in rest}
    found = spread_weights([row["score"] for row in taught], [row["map_peak"] for row in taught])
    assert made["joint_score"] == dataclasses.asdict(found) and found.verdict > 0.0 and found.map > 0.0
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "by how far 8 good images spread" in log and "what joining brings is not known" in log


def test_kinds_of_parts_are_calibrated_each_by_itself(run_folder: Path, tmp_path: Path) -> None:
    """Two kinds of 12 images and a third of too few: a shift of each, which verdict, score and words follow."""
    folder, good = Path(shutil.copytree(run_folder, tmp_path / "run")), tmp_path / "good"
    drawn = [each for each in draw(DataConfig(num_train=200, num_test=1, image_px=40), "train", 9) if not each.defects]
    kinds = ("gear", "screw", "washer")
    for kind, number in zip(kinds, (12, 12, 4), strict=True):
        (good / kind).mkdir(parents=True)
        for index in range(number):
            (good / kind / f"{index:02}.png").write_bytes(drawn.pop().test_image)
    reference = good / "gear" / "00.png"
    given = {"references": reference, "false_alarm_rate": 0.1}
    made = sage_jax.calibrate(folder, good, **given)
    rows = read_jsonl(folder / "calibration" / "good" / "inspection.jsonl")
    scores = {kind: sorted(row["score"] for row in rows if row["category"] == kind) for kind in kinds}
    assert [len(each) for each in scores.values()] == [12, 12, 4]
    shifts = made["shifts"]
    assert set(shifts["of_category"]) == {"gear", "screw"} and made["promised"] == 1 / 13
    for kind in ("gear", "screw"):
        assert special.expit(-shifts["of_category"][kind]) == pytest.approx(scores[kind][-1], abs=2e-6)
    assert made["threshold"] == pytest.approx(0.5, abs=1e-4)
    inspector, plain = sage_jax.load(folder), sage_jax.load(folder, threshold=0.5)
    promise = inspector.threshold().promise
    assert "each of these kinds by itself: gear, screw; of others nothing is promised" in promise
    for kind in kinds:
        ours, raw = (one.inspect(good / kind / "01.png", reference, category=kind) for one in (inspector, plain))
        shift = shifts["of_category"].get(kind, shifts["others"])
        assert ours.score is not None and raw.score is not None
        assert ours.score == pytest.approx(special.expit(special.logit(raw.score) + shift), rel=1e-3)
        assert ours.verdict == ("defective" if ours.score >= made["threshold"] else "good")
        assert ours.reason.startswith(("Yes", "True") if ours.verdict == "defective" else ("No", "False"))
    fields = {"images": str(good), "references": str(reference), "output": str(tmp_path / "looked")}
    sage_jax.train(_with_inspection(folder, **fields), stages="inspect")
    found = {row["image"]: row["score"] for row in read_jsonl(tmp_path / "looked" / "inspection.jsonl")}
    for row in rows:
        shift = shifts["of_category"].get(row["category"], shifts["others"])
        assert found[row["image"]] == pytest.approx(special.expit(special.logit(row["score"]) + shift), rel=1e-3)
    flat = tmp_path / "flat"
    flat.mkdir()
    for index in range(3):
        shutil.copy(good / "washer" / f"{index:02}.png", flat / f"{index}.png")
    shutil.copytree(flat, flat / "gear")
    counted = sage_jax.calibrate(folder, good, flat, **given)
    assert (counted["num_good"], counted["num_defective"]) == (24, 3), "images of kinds without a promise do not count"
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "too few good images, or as high scores as defective ones: washer (4)" in log
    assert "3 of 6 defective images are of kinds without a threshold of their own" in log
    config = _with_inspection(folder)
    together = dataclasses.replace(config.calibrate, by_category=False, good=str(good), references=str(reference))
    sage_jax.train(config, stages="calibrate", calibrate=together)
    assert json.loads((folder / "calibration.json").read_text("utf-8"))["shifts"] == {"of_category": {}, "others": 0.0}


def test_what_cannot_be_promised_costs_one_line(run_folder: Path, parts: Path) -> None:
    with pytest.raises(UserError, match=r"24 good images promise .* give 99 or more"):
        sage_jax.calibrate(run_folder, parts / "good", references=parts / "good" / "00.png", false_alarm_rate=0.01)
    with pytest.raises(UserError, match="calibrate.good is empty"):
        sage_jax.train(_with_inspection(run_folder), stages="calibrate", calibrate=CalibrateConfig())
    for name in ("good", "defective", "references"):
        fields = dataclasses.replace(CalibrateConfig(good=str(parts / "good")), **{name: str(parts / "nowhere")})
        with pytest.raises(UserError, match=rf"^calibrate\.{name} = .*nowhere"):
            sage_jax.train(_with_inspection(run_folder), stages="calibrate", calibrate=fields)


def test_the_command_calibrates(tiny_run: TinyRun, parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "whole"))
    done = run_main(
        folder,
        "--config.stages=calibrate",
        f"--config.calibrate.good={parts / 'good'}",
        "--config.calibrate.false_alarm_rate=0.2",
    )
    assert "Stage" not in done.stdout and "Right" not in done.stdout, "no tables of older stages"
    assert "of escapes nothing is known without defective images" in done.stderr + done.stdout
    assert json.loads((folder / "run" / "calibration.json").read_text(encoding="utf-8"))["with_reference"] is False
