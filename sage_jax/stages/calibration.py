"""Stage `calibrate`: the threshold of a trained model, from images that nobody trained on, with its promise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from scipy import special

from sage_jax.config import CalibrateConfig, Config, ConfigError, InspectConfig
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection.images import ChosenImages, Images, References, UserImages, find_images
from sage_jax.inspection.inspection_model import Threshold
from sage_jax.journal.calibration_plot import plot_calibration
from sage_jax.journal.run_log import RunLog
from sage_jax.metrics.calibration import Calibration, CalibrationError, Trade
from sage_jax.metrics.calibration import calibrate as calibrate_scores
from sage_jax.metrics.score_shifts import learn_shifts, shifted
from sage_jax.process.checksums import sealed_json
from sage_jax.process.files import replace_file
from sage_jax.process.signals import Interrupted
from sage_jax.stages.facts import told_images
from sage_jax.stages.familiarity import learn_familiarity
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.joining import learn_joint_score, others, shares_to_learn_on, told_gain
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Stage, StageCost
from sage_jax.verdict import JointScore, ScoreShifts, kind_of_part

PLOT: Final = "calibration.png"
NOT_CALIBRATED: Final = 0.5
"""Threshold of a model without a calibration."""
NO_SHIFTS: Final = ScoreShifts()
"""Of scores that are those of the model, whatever the part."""


def calibrate(stage: Stage) -> StageCost:
    """Inspects the good and the defective images of `calibrate`, and writes `calibration.json` and a plot of it.

    Raises:
      ConfigError: The images do not support what is asked, or the stage that answers is not trained.
    """
    run, log, config = stage.run, stage.log, stage.config
    name = run.trained.to_answer(config.inspect.stage, wanted_by=stage.name)
    log_changes(stage, name)
    asked_for = _inspections(config)
    try:
        shown: dict[str, Images] = {
            label: told_images(stage, UserImages(options, run.vocabulary, config.data))
            for label, options in asked_for.items()
        }
    except Interrupted as stopped:
        return StageCost(interrupted=str(stopped))
    evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
    for label, options in asked_for.items():
        given = f"{options.images}, compared with {options.references or 'nothing'}"
        log.line(f"{len(shown[label])} {label} images of {given}")
    joint = None
    try:
        if learnt_on := shares_to_learn_on(config, {label: len(images) for label, images in shown.items()}):
            rows = {
                label: _rows(stage, evaluator, name, ChosenImages(shown[label], part), f"{label}_to_join")
                for label, part in learnt_on.items()
            }
            joint = learn_joint_score(rows, log)
        responder = evaluator.responder.decoding_with(verdict_threshold=NOT_CALIBRATED, joint_score=joint)
        scoring = dataclasses.replace(evaluator, responder=responder)
        rest = {label: others(len(images), learnt_on.get(label)) for label, images in shown.items()}
        found_rows = {
            label: _rows(stage, scoring, name, ChosenImages(shown[label], part), label) for label, part in rest.items()
        }
    except Interrupted as stopped:
        return StageCost(interrupted=str(stopped))
    try:
        found, shifts, scores = _calibrated(found_rows, config.calibrate, log)
    except CalibrationError as error:
        raise ConfigError(f"calibrate.good = {config.calibrate.good}: {error}") from None
    made_for = {"stage": name, "model": evaluator.digest(), "with_reference": bool(_references(config))}
    content = made_for | {
        "num_references": config.num_references,
        "familiarity": learn_familiarity(stage, made_for, shown["good"]),
        "joint_score": None if joint is None else dataclasses.asdict(joint),
        "shifts": dataclasses.asdict(shifts),
        **dataclasses.asdict(found),
    }
    replace_file(run.folder.calibration, json.dumps(sealed_json(content), indent=1) + "\n")
    plot_calibration(found, scores["good"], scores.get("defective", []), run.folder.path / PLOT)
    _say(found, joint, shifts, log)
    if joint is not None:
        log.line(told_gain(found_rows, joint))
    return StageCost()


def _say(found: Calibration, joint: JointScore | None, shifts: ScoreShifts, log: RunLog) -> None:
    """Threshold and promise, those of each kind of part, and what other thresholds would give."""
    log.line(f"threshold {found.threshold:.6f}: {promise_of(found, joint, shifts)}")
    for kind, shift in shifts.of_category.items():
        before = special.expit(-shift)
        log.line(f"  {_in_words(kind)}: threshold {before:.6f} of its scores before they were shifted")
    for trade in found.trades:
        escapes = "" if trade.escapes is None else f", escapes {trade.escapes:.1%} of the defective ones"
        log.line(f"  threshold {trade.threshold:.6f}: false alarms at most {trade.promised:.2%}{escapes}")


def _calibrated(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], options: CalibrateConfig, log: RunLog
) -> tuple[Calibration, ScoreShifts, dict[str, list[float]]]:
    """What scores tell of a threshold, the shifts of kinds of parts, and the shifted scores by label.

    Where kinds are calibrated each by itself, images of others count for nothing: nothing is promised of them.
    """
    by_kind = dict[str, list[float]]()
    for row in rows["good"]:
        by_kind.setdefault(kind_of_part(row["category"]), []).append(row["score"])
    shifts = ScoreShifts()
    if options.by_category:
        shifts = learn_shifts(by_kind, false_alarm_rate=options.false_alarm_rate)
    if len(by_kind) > 1 and options.by_category:
        lacking = [f"{_in_words(kind)} ({len(by_kind[kind])})" for kind in by_kind if kind not in shifts.of_category]
        if lacking:
            why = "too few good images, or as high scores as defective ones"
            log.line(f"kinds without a threshold of their own, {why}: {', '.join(lacking)}")
    counted = {label: [row for row in found if shifts.covers(row["category"])] for label, found in rows.items()}
    for label, found in rows.items():
        if left_out := len(found) - len(counted[label]):
            log.line(
                f"{left_out} of {len(found)} {label} images are of kinds without a threshold of their own and do not "
                "count: lay them in folders of their kind's name, as the good ones"
            )
    scores = {label: shifted_scores(found, shifts) for label, found in counted.items()}
    groups = [shifted(by_kind[kind], shift).tolist() for kind, shift in shifts.of_category.items()]
    rates = {"false_alarm_rate": options.false_alarm_rate, "escape_rate": options.escape_rate}
    return calibrate_scores(scores["good"], scores.get("defective", []), groups=groups, **rates), shifts, scores


def _in_words(kind: str) -> str:
    return kind or "no named kind"


def shifted_scores(rows: Sequence[Mapping[str, Any]], shifts: ScoreShifts) -> list[float]:
    """The scores of rows of a calibration, which have none added, as inspection gives them."""
    if not shifts:
        return [row["score"] for row in rows]
    return [float(shifted([row["score"]], shifts.of(row["category"]))[0]) for row in rows]


def _rows(stage: Stage, evaluator: Evaluator, name: str, images: Images, label: str) -> list[dict[str, Any]]:
    """The rows of the readable ones of some images; they are kept in `calibration/` of the run.

    Args:
      label: Name of their folder.

    Raises:
      Interrupted: A signal has come; the rows that are done are kept.
    """
    run = stage.run
    output = run.folder.path / "calibration" / label
    asked = dataclasses.replace(evaluator, config=dataclasses.replace(stage.config, inspect=_asked(stage.config)))
    done = inspection.inspect(images, asked, stage=name, output=output, log=stage.log, mesh=run.mesh).done
    if done < len(images):
        raise Interrupted(f"stage calibrate stopped after {done} of {len(images)} {label} images; their rows are saved")
    rows = [json.loads(line) for line in (output / "inspection.jsonl").read_text(encoding="utf-8").splitlines()]
    readable = [row for row in rows if row["score"] is not None]
    if unreadable := len(rows) - len(readable):
        stage.log.line(f"{unreadable} of them cannot be read and do not count: {output / 'report.html'} names them")
    return readable


def check_calibration(config: Config) -> None:
    """Checks that there are images to calibrate on.

    Raises:
      ConfigError: `calibrate.good` is empty, or a path names none.
    """
    if not config.calibrate.good:
        raise ConfigError(
            "calibrate.good is empty: name a folder of good images that nobody trained on, 19 or more for a rate of "
            "0.05, with --config.calibrate.good=FOLDER"
        )
    for name in ("good", "defective"):
        if images := getattr(config.calibrate, name):
            with _named("inspect.images", f"calibrate.{name}"):
                find_images(images)
    with _named("inspect.references", "calibrate.references" if config.calibrate.references else "inspect.references"):
        References(_references(config))


@contextlib.contextmanager
def _named(field: str, given: str) -> Iterator[None]:
    """Names the field that was given in an error about the one of `inspect` that reads it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace(field, given)) from None


def promise_of(found: Calibration, joint: JointScore | None = None, shifts: ScoreShifts = NO_SHIFTS) -> str:
    """What the threshold holds, in a sentence, of scores that may join verdict and map, and be shifted by kind."""
    good = f"of further good images like the {found.num_good} calibrated on, {found.promised:.2%} or fewer are called "
    text = f"{good}defective, on average over calibrations"
    if shifts:
        kinds = ", ".join(map(_in_words, shifts.of_category))
        text += f", of each of these kinds by itself: {kinds}; of others nothing is promised"
    if joint is not None:
        text += "; the score joins the verdict with the map" + (" and the pixels" if joint.difference else "")
    if found.escape_bound is None:
        return f"{text}; of escapes nothing is known without defective images"
    seen = f"{found.escapes} of {found.num_defective} defective ones escaped"
    return f"{text}; {seen}, at most {found.escape_bound:.1%} with 95 % confidence"


def threshold_of(
    config: Config, evaluator: Evaluator, stage: str, *, with_reference: bool, as_configured: bool = True
) -> Threshold:
    """The threshold of `inspect`: as given, as calibrated for this model, or `NOT_CALIBRATED`.

    Args:
      as_configured: Whether images are compared with as many references as the config says; else nobody knows yet.

    Raises:
      ConfigError: The calibration is damaged, or gone.
    """
    if config.inspect.threshold >= 0.0:
        return Threshold(config.inspect.threshold, "none: the threshold was set by hand")
    folder = RunFolder(Path(config.run_dir).expanduser())
    content = folder.read_calibration()
    if content is None:
        if (folder.path / PLOT).exists():  # which is written behind it, and by nothing else
            raise ConfigError(
                f"{folder.calibration}: gone, though this run was calibrated: bring it back from a copy, calibrate "
                "again, or give inspect.threshold"
            )
        return Threshold(NOT_CALIBRATED, "none: nobody chose the threshold; `sage-jax calibrate` does")
    try:
        found, made_for = _calibration(content), (content["stage"], content["model"], content["with_reference"])
        joint = JointScore(**content["joint_score"]) if content.get("joint_score") else None
        shifts = ScoreShifts(**(content.get("shifts") or {}))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder.calibration}: lacks {error}: delete it, and calibrate again") from None
    if made_for[:2] != (stage, evaluator.digest()):
        why = f"none: the calibration is of another model (stage {made_for[0]}); calibrate again"
        return Threshold(NOT_CALIBRATED, why)
    if made_for[2] != with_reference:
        used = "with" if made_for[2] else "without"
        return Threshold(NOT_CALIBRATED, f"none: the calibration is of images {used} a reference")
    number = content.get("num_references", 1)
    if with_reference and as_configured and number != config.num_references:
        why = f"none: the calibration is of images with up to {number} references, not {config.num_references}"
        return Threshold(NOT_CALIBRATED, why)
    promise = promise_of(found, joint, shifts)
    return Threshold(found.threshold, promise, found, number if with_reference else 0, joint, shifts)


def _calibration(content: dict[str, Any]) -> Calibration:
    names = [field.name for field in dataclasses.fields(Calibration)]
    trades = tuple(Trade(**trade) for trade in content["trades"])
    return Calibration(**{name: content[name] for name in names if name != "trades"}, trades=trades)


def _references(config: Config) -> str:
    return config.calibrate.references or config.inspect.references


def _asked(config: Config) -> InspectConfig:
    """How images are inspected, whatever their label."""
    return dataclasses.replace(
        config.inspect, references=_references(config), questions=(), threshold=NOT_CALIBRATED, report_images=50
    )


def _inspections(config: Config) -> dict[str, InspectConfig]:
    """What is inspected, by label."""
    named = {"good": config.calibrate.good, "defective": config.calibrate.defective}
    return {label: dataclasses.replace(_asked(config), images=images) for label, images in named.items() if images}
