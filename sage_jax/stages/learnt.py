"""The model before and after it learnt: measured side by side, calibrated again, and offered or not."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.table import Table

from sage_jax.config import LEARN, ConfigError
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.evaluation.before_after import Compared, Values, compare, right_questions, right_reasons, right_verdicts
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.process import signals
from sage_jax.process.signals import Interrupted
from sage_jax.stages.calibration import calibrate, check_calibration, shifted_scores, threshold_of
from sage_jax.stages.lesson import Lesson
from sage_jax.stages.run import Run, Stage
from sage_jax.stages.versions import Version
from sage_jax.verdict import ScoreShifts

MEASURES: Final = {
    "corrections_held_out": "Verdicts, corrections held out",
    "corrections_trained": "Verdicts, corrections trained on",
    "corrections_kind": "Kind, corrections held out",
    "corrections_place": "Place, corrections held out",
    "test_verdicts": "Verdicts, old test set",
    "test_kind": "Kind, old test set",
    "test_place": "Place, old test set",
    "calibration_good": "Good images of the calibration",
    "calibration_defective": "Defective images of the calibration",
}
"""What is measured before and after, in the order of the table."""

Found = TypeVar("Found")
_Measured = Callable[[str, Evaluator, str], dict[str, Values]]


@dataclasses.dataclass(frozen=True)
class Learnt:
    """A model before and after.

    Attributes:
      run: The run as it answers now.
      stage: Training stage of its model.
      made: The run of the version, trained.
      at_work: The stage `learn`, for its log.
    """

    run: Run
    stage: str
    made: Run
    at_work: Stage

    def measure(self, lesson: Lesson) -> tuple[dict[str, Compared], dict[str, Any]]:
        """Both models on the lesson, the old test set and the calibration images.

        Returns:
          The measures, and what became of the calibration: `before`, `after` and `fault`.

        Raises:
          Interrupted: A signal has come; the same command goes on, and measures anew.
        """
        before = self._of("before", self.run, self.stage, lesson)
        calibration = self._calibrated()
        after = self._of("after", self.made, LEARN, lesson)
        if calibration["after"]:
            before |= self._calibration_values(self.run)
            after |= self._calibration_values(self.made)
        evaluate = self.run.config.evaluate
        return compare(before, after, samples=evaluate.bootstrap_samples, seed=self.run.config.seed), calibration

    def _of(self, label: str, run: Run, name: str, lesson: Lesson) -> dict[str, Values]:
        evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=LEARN), use_up=True)
        found = {
            compared: threshold_of(run.config, evaluator, name, with_reference=compared, as_configured=False)
            for compared in (True, False)
        }
        deciding = [{compared: getattr(each, name) for compared, each in found.items()} for name in ("value", "shifts")]
        # Of images without a reference it is the verdict's alone, whatever joins them.
        scoring = evaluator.responder.decoding_with(verdict_threshold=None, joint_score=found[True].joint_score)
        judged = dataclasses.replace(evaluator, responder=scoring)
        stored = self.run.records("test", wanted_by="evaluate")
        tested = ChosenRecords(stored, range(len(stored))[: run.config.learn.test_records or None])

        def shown(what: str, records: Sequence[Record], measure: Callable[..., Found], *more: Any) -> Found:
            batches = -(-len(records) // max(1, evaluator.rows(len(records)))) if records else 0
            asked = judged if measure is right_verdicts else evaluator
            with self.at_work.log.progress(batches, unit=f"{label}, {what}") as advance:

                def told(done: int) -> None:
                    if signals.requested():
                        raise Interrupted(f"stage learn stopped while it measured {what}; the trained version is kept")
                    advance(done)

                return measure(asked, records, *more, told)

        reasons = shown("reasons of corrections", lesson.held_out_records, right_reasons)
        of_test = shown("reasons of the test set", tested, right_reasons)
        return {
            "corrections_held_out": shown("corrections", lesson.held_out_records, right_verdicts, *deciding),
            "corrections_trained": shown("corrections", lesson.trained_records, right_verdicts, *deciding),
            "corrections_kind": reasons["kind"],
            "corrections_place": reasons["place"],
            "test_verdicts": shown("test set", tested, right_questions),
            "test_kind": of_test["kind"],
            "test_place": of_test["place"],
        }

    def _calibrated(self) -> dict[str, Any]:
        """Calibrates the version where the run is; before and after, and why it could not be done."""
        before = self.run.folder.read_calibration()
        found: dict[str, Any] = {"before": before, "after": None, "fault": ""}
        if before is None:
            return found
        try:
            check_calibration(self.made.config)
            cost = calibrate(Stage(self.made, "calibrate", self.at_work.log))
        except ConfigError as error:
            return found | {"fault": str(error)}
        if cost.interrupted:
            raise Interrupted(cost.interrupted)
        return found | {"after": self.made.folder.read_calibration()}

    def _calibration_values(self, run: Run) -> dict[str, Values]:
        """Right verdicts on the images of a calibration, each under the threshold that it found."""
        content = run.folder.read_calibration()
        found: dict[str, Values] = {}
        if content is None:
            return found
        for label in ("good", "defective"):
            path = run.folder.path / "calibration" / label / "inspection.jsonl"
            known = path.is_file() and content[f"num_{label}"]  # or else the rows are those of an earlier calibration
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if known else []
            readable = [row for row in rows if row["score"] is not None]
            scores = shifted_scores(readable, ScoreShifts(**(content.get("shifts") or {})))
            found[f"calibration_{label}"] = {
                row["image"]: [float((score >= content["threshold"]) == (label == "defective"))]
                for row, score in zip(readable, scores, strict=True)
            }
        return found


def judgement(measures: Mapping[str, Compared], calibration: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a version is offered, and why in a sentence."""
    fell = [f"{MEASURES[name]} ({each.gain.value:+.1%})" for name, each in measures.items() if each.fell]
    if fell:
        return False, f"not offered: fell beyond noise: {', '.join(fell)}"
    if calibration["fault"]:
        return False, f"not offered: it could not be calibrated again: {calibration['fault']}"
    gain = measures["corrections_held_out"].gain if "corrections_held_out" in measures else None
    shown = gain is not None and gain.low is not None and gain.low > 0.0
    more = "" if shown else "; the held-out corrections are too few, or changed too little, to show a gain"
    return True, f"offered: nothing fell beyond noise{more}"


def print_versions(versions: Sequence[Version]) -> None:
    """The table of a run's versions, and why each is offered or not."""
    table = Table("version", "answers", "from", "made", "corrections", "test set", box=None, pad_edge=False)
    console = Console(highlight=False)
    for each in versions:
        report = each.report
        changes = [
            f"{report['measures'][name]['gain']['value']:+.1%}" if name in report.get("measures", {}) else ""
            for name in ("corrections_held_out", "test_verdicts")
        ]
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(report["time"])) if report else "as it was trained"
        table.add_row(
            str(each.number), "yes" if each.active else "", str(report.get("from_version", "")), made, *changes
        )
    console.print(table)
    for each in versions:
        if each.report:
            console.print(f"version {each.number}: {each.report['why']}", soft_wrap=True)


def print_learnt(report: Mapping[str, Any]) -> None:
    """The table of a version's report: before and after, side by side."""
    table = Table("share right", "before", "after", "change", "95 %", "images", box=None, pad_edge=False)
    for name, label in MEASURES.items():
        if name in report["measures"]:
            each = report["measures"][name]
            gain = each["gain"]
            interval = f"{gain['low']:+.1%} to {gain['high']:+.1%}"
            row = [f"{each['before']['value']:.1%}", f"{each['after']['value']:.1%}", f"{gain['value']:+.1%}", interval]
            table.add_row(label, *row, str(gain["n"]))
    console = Console(highlight=False)
    console.print(table)
    for when in ("before", "after"):
        if found := report["calibration"][when]:
            console.print(f"threshold {when}: {found['threshold']:.6f}, false alarms at most {found['promised']:.2%}")
    console.print(report["why"], soft_wrap=True)
