"""Answers of a stage as `evaluate` left them, and the files of their judgements."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sage_jax.errors import UserError
from sage_jax.metrics.mle import MleScore
from sage_jax.process.files import replace_file


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer that is to be judged.

    Attributes:
      image: The test image, which other questions share.
      question: What was asked.
      reference_answer: The best answer known.
      text: The answer.
      rubric: Marks by the offline rubric; None where there are none.
    """

    image: str
    question: str
    reference_answer: str
    text: str
    rubric: MleScore | None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One judgement of an answer.

    Attributes:
      answer: The answer.
      repetition: Number of the judgement, from 0.
      marks: The judge's marks; None where it gave none.
      reason: Why it gave none; "" where it did.
    """

    answer: Answer
    repetition: int
    marks: MleScore | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The judgement in the field names of the released evaluator; a failure has its reason in place of marks."""
        texts = {
            "question": self.answer.question,
            "reference_answer": self.answer.reference_answer,
            "test_answer": self.answer.text,
        }
        if self.marks is None:
            return {**texts, "reason": self.reason, "repetition": self.repetition}
        marks = {name: int(mark) for name, mark in dataclasses.asdict(self.marks).items()}
        return {**texts, **marks, "average": self.marks.average, "repetition": self.repetition}


def predictions_file(folder: Path, stage: str, mode: str) -> Path:
    """File of the answers of a stage in a mode, below a run or an evaluation."""
    return folder / "predictions" / f"{stage}_{mode}.jsonl"


def judgements_file(folder: Path, stage: str, mode: str) -> Path:
    """File of the judgements of these answers."""
    return folder / "judgements" / f"{stage}_{mode}.jsonl"


def failures_file(folder: Path, stage: str, mode: str) -> Path:
    """File of the judgements that the judge did not give."""
    return folder / "judgements" / f"{stage}_{mode}.failed.jsonl"


def read_answers(path: Path) -> list[Answer]:
    """The answers of a predictions file.

    Raises:
      UserError: It cannot be read, or a line is no prediction; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}: run the stage evaluate again") from None
    return [_answer(path, number, line) for number, line in enumerate(lines, start=1) if line]


def _answer(path: Path, number: int, line: str) -> Answer:
    try:
        row = json.loads(line)
        texts = [row[name] for name in ("image", "question", "answer", "prediction")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is no string")
        marks = row.get("mle")
        rubric = marks and MleScore(*(float(marks[name]) for name in ("accuracy", "localization", "logic")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}: no prediction ({error!r}): delete the file, and run the stage evaluate again"
        ) from None
    return Answer(*texts, rubric=rubric or None)


def write_judgements(folder: Path, stage: str, mode: str, judgements: Sequence[Judgement], *, scored_of: str) -> None:
    """Writes the judgements of a mode, and those that failed into a file of their own, which is there if any did.

    Args:
      scored_of: Hash of the evaluation that the answers are of; each line has it.
    """

    def lines(failed: bool) -> Iterator[str]:
        for each in judgements:
            if (each.marks is None) is failed:
                yield json.dumps({**each.as_json(), "scored_of": scored_of}, ensure_ascii=False) + "\n"

    failures = failures_file(folder, stage, mode)
    if any(each.marks is None for each in judgements):
        replace_file(failures, lines(True))
    else:
        failures.unlink(missing_ok=True)
    replace_file(judgements_file(folder, stage, mode), lines(False))
