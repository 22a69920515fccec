"""A model that inspects batches of images under its thresholds: what the Python API and the service both ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.batches import ImageBatch, answer_batch, cached_references, read_batch
from sage_jax.inspection.images import InputImage
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.inspection.result import Inspection, make_inspection, unreadable
from sage_jax.metrics.calibration import Calibration
from sage_jax.metrics.familiarity import Familiarity
from sage_jax.verdict import JointScore, ScoreShifts, kind_of_part


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Score from which an image is called defective, and what may be said of it in a sentence.

    Attributes:
      value: The score, 0 to 1.
      promise: What holds of images like those calibrated on.
      calibration: What found it; None where nobody calibrated.
      num_references: References that images were compared with when it was found; 0 without.
      joint_score: How the score joins verdict and map, of images with a reference; None = it is the verdict's alone.
      shifts: What is added to the log-odds of the scores of kinds of parts, so that the threshold serves all.
    """

    value: float
    promise: str
    calibration: Calibration | None = None
    num_references: int = 0
    joint_score: JointScore | None = None
    shifts: ScoreShifts = ScoreShifts()

    def probability(self, score: float) -> float | None:
        """Calibrated probability of a defect; None without a calibration on good and defective images."""
        found = self.calibration
        if found is None or found.slope is None:
            return None
        return float(found.probability(np.array([score]))[0])

    def promise_with(self, num_references: int, category: str) -> str:
        """The promise for an image of a kind of part, compared with so many references."""
        number = self.num_references
        if self.calibration is None:
            return self.promise
        if number != num_references:
            return f"none: the calibration is of images with up to {number} references, not {num_references}"
        if not self.shifts.covers(category):
            kind = kind_of_part(category)
            shown = (
                f"of other kinds of parts than {kind}" if kind else "by kind of part, and nobody says what kind this is"
            )
            return f"none: the calibration is {shown}"
        return self.promise


class FactTeller(Protocol):
    """What gives images the facts that a model writes about them."""

    def told(self, inputs: Sequence[InputImage], rows: int) -> list[InputImage]:
        """The inputs with their facts, written as a batch of so many rows where there are none yet."""
        ...


@dataclasses.dataclass(frozen=True)
class ReadBatch:
    """Images read for the model.

    Attributes:
      batch: Their trees.
      evaluator: The model, with the threshold and the questions of these images.
      compared: Whether one of the images has a reference, which chose the threshold.
    """

    batch: ImageBatch
    evaluator: Evaluator
    compared: bool


class InspectionModel:
    """A model, its thresholds with and without a reference, and the images that it was calibrated on.

    For any thread; of a model on several devices one at a time may call `answer`.

    Args:
      evaluator: The model.
      stage: The training stage whose model it is.
      thresholds: By whether images have a reference.
      familiarities: What the images of the calibration look like, likewise; None = not known.
      teller: Gives images facts; None = those of the vocabulary.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        stage: str,
        thresholds: Mapping[bool, Threshold],
        familiarities: Mapping[bool, Familiarity | None],
        teller: FactTeller | None = None,
    ) -> None:
        self.evaluator, self.stage, self.thresholds = evaluator, stage, thresholds
        self._familiarities, self._teller = familiarities, teller
        self._responders = {
            with_reference: evaluator.responder.decoding_with(
                verdict_threshold=threshold.value, joint_score=threshold.joint_score
            )
            for with_reference, threshold in thresholds.items()
        }
        self._references = cached_references(evaluator, one_for_all=True)

    @property
    def revision(self) -> str:
        """Hash of all that decides a finding: the model, its thresholds and what they are of, and its maps."""
        decided = [(compared, each.value, each.joint_score, each.shifts) for compared, each in self.thresholds.items()]
        return self.evaluator.digest(
            thresholds=repr(sorted(decided, key=repr)), maps=self.evaluator.config.evaluate.map_detail
        )

    def findings(self, inputs: Sequence[InputImage], questions: Sequence[str], *, rows: int) -> Iterator[Inspection]:
        """The findings on images in order, in batches of a fixed number of rows; unreadable images get theirs too.

        Args:
          questions: Asked about images that have no questions of their own.
        """
        rows = self.evaluator.responder.rows(rows)
        for start in range(0, len(inputs), rows):
            batch = self.read(inputs[start : start + rows], questions, rows=rows)
            for image, said in zip(batch.batch.inputs, self.answer(batch), strict=True):
                yield self.finding(batch, image, said)

    def read(self, inputs: Sequence[InputImage], questions: Sequence[str], *, rows: int) -> ReadBatch:
        """The trees of at most `rows` images; those with and those without references may be among them.

        The threshold is that of images with references where one of them has some.

        Args:
          questions: Asked about images that have no questions of their own.
        """
        compared = any(each.record is not None and each.record.reference_image is not None for each in inputs)
        config = self.evaluator.config
        threshold = self.thresholds[compared]
        options = dataclasses.replace(config.inspect, questions=tuple(questions), threshold=threshold.value)
        decided = {"config": dataclasses.replace(config, inspect=options), "shifts": threshold.shifts}
        evaluator = dataclasses.replace(self.evaluator, responder=self._responders[compared], **decided)
        rows = evaluator.responder.rows(rows)
        inputs = inputs if self._teller is None else self._teller.told(inputs, rows)
        return ReadBatch(read_batch(inputs, evaluator, rows), evaluator, compared)

    def answer(self, read: ReadBatch) -> list[ImageAnswers | None]:
        """The model's answers about each image, in order; None for unreadable ones."""
        return answer_batch(read.batch, read.evaluator, self._references)

    def finding(self, read: ReadBatch, image: InputImage, said: ImageAnswers | None) -> Inspection:
        """The finding on an image of a batch."""
        if said is None:
            return unreadable(image.path, image.category, image.error)
        return make_inspection(said, read.evaluator.config, self._familiarities[read.compared])
