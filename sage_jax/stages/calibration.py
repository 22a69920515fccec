"""Stage `calibrate`: the threshold of a trained model, from images that nobody trained on, with its promise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sage_jax.config import Config, ConfigError, InspectConfig
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection.images import References, UserImages, find_images
from sage_jax.inspection.inspection_model import Threshold
from sage_jax.journal.calibration_plot import plot_calibration
from sage_jax.journal.summary import load_summary
from sage_jax.metrics.calibration import Calibration, CalibrationError, Trade
from sage_jax.metrics.calibration import calibrate as calibrate_scores
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.process.signals import Interrupted
from sage_jax.stages.facts import told_images
from sage_jax.stages.familiarity import learn_familiarity
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Stage, StageCost

NOT_CALIBRATED: Final = 0.5
"""Threshold of a model without a calibration."""


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
        shown = {
            label: told_images(stage, UserImages(options, run.vocabulary, config.data))
            for label, options in asked_for.items()
        }
    except Interrupted as stopped:
        return StageCost(interrupted=str(stopped))
    evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
    scores: dict[str, list[float]] = {}
    for label, options in asked_for.items():
        output, images = run.folder.path / "calibration" / label, shown[label]
        asked = dataclasses.replace(evaluator, config=dataclasses.replace(config, inspect=options))
        log.line(f"{len(images)} {label} images of {options.images}, compared with {options.references or 'nothing'}")
        found = inspection.inspect(images, asked, stage=name, output=output, log=log, mesh=run.mesh)
        if found.done < len(images):
            why = f"stage calibrate stopped after {found.done} of {len(images)} {label} images; their rows are saved"
            return StageCost(interrupted=why, counts=dict(found.counts))
        rows = [json.loads(line) for line in (output / "inspection.jsonl").read_text(encoding="utf-8").splitlines()]
        scores[label] = [row["score"] for row in rows if row["score"] is not None]
        if unreadable := len(rows) - len(scores[label]):
            log.line(f"{unreadable} of them cannot be read and do not count: {output / 'report.html'} names them")
    try:
        found = calibrate_scores(
            scores["good"],
            scores.get("defective", []),
            false_alarm_rate=config.calibrate.false_alarm_rate,
            escape_rate=config.calibrate.escape_rate,
        )
    except CalibrationError as error:
        raise ConfigError(f"calibrate.good = {config.calibrate.good}: {error}") from None
    made_for = {"stage": name, "model": evaluator.digest(), "with_reference": bool(_references(config))}
    learnt = learn_familiarity(stage, evaluator, made_for, asked_for["good"])
    content = made_for | {"num_references": config.num_references, "familiarity": learnt} | dataclasses.asdict(found)
    replace_file(run.folder.calibration, json.dumps(sealed_json(content), indent=1) + "\n")
    plot_calibration(found, scores["good"], scores.get("defective", []), run.folder.path / "calibration.png")
    log.line(f"threshold {found.threshold:.6f}: {promise_of(found)}")
    for trade in found.trades:
        escapes = "" if trade.escapes is None else f", escapes {trade.escapes:.1%} of the defective ones"
        log.line(f"  threshold {trade.threshold:.6f}: false alarms at most {trade.promised:.2%}{escapes}")
    return StageCost()


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


def promise_of(found: Calibration) -> str:
    """What the threshold holds, in a sentence."""
    good = f"of further good images like the {found.num_good} calibrated on, {found.promised:.2%} or fewer are called "
    text = f"{good}defective, on average over calibrations"
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
    path = folder.calibration
    try:
        content = open_json(path.read_text(encoding="utf-8"))
        found, made_for = _calibration(content), (content["stage"], content["model"], content["with_reference"])
    except FileNotFoundError:
        if "calibrate" in load_summary(folder.summary)["stages"]:
            raise ConfigError(
                f"{path}: gone, though this run was calibrated: bring it back from a copy, calibrate again, or give "
                "inspect.threshold"
            ) from None
        return Threshold(NOT_CALIBRATED, "none: nobody chose the threshold; `sage-jax calibrate` does")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(f"{path}: {error}: delete it, and calibrate again") from None
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
    return Threshold(found.threshold, promise_of(found), found, number if with_reference else 0)


def _calibration(content: dict[str, Any]) -> Calibration:
    names = [field.name for field in dataclasses.fields(Calibration)]
    trades = tuple(Trade(**trade) for trade in content["trades"])
    return Calibration(**{name: content[name] for name in names if name != "trades"}, trades=trades)


def _references(config: Config) -> str:
    return config.calibrate.references or config.inspect.references


def _inspections(config: Config) -> dict[str, InspectConfig]:
    """What is inspected, by label."""
    named = {"good": config.calibrate.good, "defective": config.calibrate.defective}
    plain = dataclasses.replace(
        config.inspect, references=_references(config), questions=(), threshold=NOT_CALIBRATED, report_images=50
    )
    return {label: dataclasses.replace(plain, images=images) for label, images in named.items() if images}
