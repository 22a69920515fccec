"""The record: one image of a part, a good reference if there is one, its questions and their ranked answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Final

from sage_jax.errors import plain
from sage_jax.verdict import Language, parse_verdict

PAIR_TYPES: Final = ("standard comparison", "defect identification", "defect diagnosis")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one place of a data set, and the way out."""

    file: str
    line: int | None
    problem: str
    cure: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return plain(f"{place}: {self.problem} ({self.cure})")


@dataclasses.dataclass(frozen=True)
class Box:
    """Pixel box, left and top inclusive, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


_OPENINGS: Final[dict[Language, str]] = {
    "en": "begin it with Yes, No, True or False",
    "zh": "begin it with 是, 否, 有, 没有 or another verdict, and set a comma or a full stop behind it",
}

NOWHERE: Final = Box(0, 0, 0, 0)
"""Box of a defect of which the image's label alone is known."""


@dataclasses.dataclass(frozen=True)
class Defect:
    """One defect of an image.

    Attributes:
      type: In the vocabulary's words.
      box: In pixels of the test image; `NOWHERE` where its place is unknown.
    """

    type: str
    box: Box

    @property
    def placed(self) -> bool:
        """Whether its place is known."""
        return self.box != NOWHERE


@dataclasses.dataclass(frozen=True)
class Reference:
    """A good image that others are compared with: its encoded file, and where that came from."""

    image: bytes
    path: str


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """An image with what is known about it, before there are questions.

    Attributes:
      image_id: Unique in the data set.
      test_image: Encoded image file (PNG, JPEG, BMP).
      reference_image: Encoded image of a good part, or None.
      category: Product category, free text ("bottle", "circuit board").
      defects: Every defect; empty for a good part.
      mask: PNG, one channel, the test image's size, 0 = good; None where no pixel label is known.
      test_path: Where the test image came from, for messages and reports.
      reference_path: The same for the reference.
      further_references: Good images that it is compared with as well.
    """

    image_id: str
    test_image: bytes
    reference_image: bytes | None
    category: str
    defects: tuple[Defect, ...]
    mask: bytes | None
    test_path: str
    reference_path: str
    further_references: tuple[Reference, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer and its judge score, 1 (worst) to 5 (best), or None where no judge has seen it."""

    text: str
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and its answers in the experts' order, best first."""

    text: str
    answers: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """One AD-PL item: a (test image, reference image) pair, one kind, its questions with ranked answers.

    Attributes:
      record_id: Unique in the data set.
      image_id: Shared by the records of one test image.
      test_image: Encoded image file.
      reference_image: Encoded image of a good part, or None.
      category: Product category.
      pair_type: One of PAIR_TYPES.
      facts: Sentences about the object and its typical anomalies; may be empty.
      questions: The questions, 5 in AD-PL.
      descriptions: Questions about what the picture shows, one answer each, for training a base model from scratch.
      anomalous: Whether the part is defective; None where the source does not say.
      defects: Every defect known; empty for a good part or where unknown.
      mask: PNG, one channel, the test image's size, 0 = good; None where no pixel label is known.
      test_path: Where the test image came from.
      reference_path: The same for the reference, "" without one.
      line: Line of the file that the record stands in, where the source is one file; else None.
      further_references: Good images that it is compared with as well; none without `reference_image`.
      file: File that the record stands in, below the data set's folder, where the source has several such; else "".
    """

    record_id: str
    image_id: str
    test_image: bytes
    reference_image: bytes | None
    category: str
    pair_type: str
    facts: tuple[str, ...]
    questions: tuple[Question, ...]
    descriptions: tuple[Question, ...]
    anomalous: bool | None
    defects: tuple[Defect, ...]
    mask: bytes | None
    test_path: str
    reference_path: str
    line: int | None = None
    further_references: tuple[Reference, ...] = ()
    file: str = ""

    @property
    def references(self) -> tuple[Reference, ...]:
        """All good images that it is compared with."""
        if self.reference_image is None:
            return ()
        return (Reference(self.reference_image, self.reference_path), *self.further_references)


def validate(
    record: Record,
    *,
    num_questions: int | None = None,
    num_answers: int | None = None,
    verdicts: bool = True,
    language: Language = "en",
) -> list[Fault]:
    """Everything wrong with a record's fields; empty when it can be used. Images are not looked at.

    Args:
      num_questions: Questions that the record must have (5 in AD-PL); None = one or more.
      num_answers: Answers that each question must have (4 in AD-PL); None = one or more.
      verdicts: Whether each best answer must open with a verdict, as in AD-PL.
      language: What the answers are written in.
    """
    faults: list[Fault] = []

    def fault(problem: str, cure: str) -> None:
        faults.append(Fault(record.test_path or record.record_id, None, problem, cure))

    for name in ("record_id", "image_id", "category"):
        if not getattr(record, name).strip():
            fault(f"{name} is empty", "give it a text")
    if record.pair_type not in PAIR_TYPES:
        fault(f"pair_type {record.pair_type!r} is no kind", f"use one of {', '.join(PAIR_TYPES)}")
    if not record.questions or len(record.questions) != (num_questions or len(record.questions)):
        fault(f"has {len(record.questions)} questions", f"give {num_questions or 'one or more'}")
    if any(not fact.strip() for fact in record.facts):
        fault("a fact is empty", "write a sentence, or take it out")
    for index, question in enumerate(record.questions, start=1):
        _validate_question(f"question {index}", question, num_answers, fault)
        best = question.answers[0].text if question.answers else ""
        if verdicts and best.strip() and parse_verdict(best, language) is None:
            fault(
                f"question {index}: the best answer {best[:40]!r} opens with no verdict",
                _OPENINGS[language],
            )
    for index, question in enumerate(record.descriptions, start=1):
        _validate_question(f"description {index}", question, 1, fault)
    return faults


def _validate_question(
    name: str, question: Question, num_answers: int | None, fault: Callable[[str, str], None]
) -> None:
    """Reports what is wrong with one question, verdict aside."""
    if not question.text.strip():
        fault(f"{name} is empty", "write the question")
    if not question.answers or len(question.answers) != (num_answers or len(question.answers)):
        fault(f"{name} has {len(question.answers)} answers", f"give {num_answers or 'one or more'}")
    texts = [" ".join(answer.text.split()).lower() for answer in question.answers]
    for rank, text in enumerate(texts[1:], start=2):
        if text and text in texts[: rank - 1]:
            problem = f"{name}: answers {texts.index(text) + 1} and {rank} are the same answer"
            fault(f"{problem}, {question.answers[rank - 1].text[:40]!r}", "give each rank a text of its own")
            break
    scores = [answer.score for answer in question.answers if answer.score is not None]
    if len(scores) == len(texts) and any(later > earlier for earlier, later in itertools.pairwise(scores)):
        order = ", ".join(f"{score:g}" for score in scores)
        fault(f"{name}: its scores rise against the rank ({order})", "write the answers in order, best first")
    for rank, answer in enumerate(question.answers, start=1):
        if not answer.text.strip():
            fault(f"{name}, answer {rank} is empty", "write the answer")
        if answer.score is not None and not 1.0 <= answer.score <= 5.0:
            fault(f"{name}, answer {rank} has score {answer.score}", "give a score from 1 to 5")
