"""What makes records meaningless though readable: labels, masks, references, ranks that contradict each other."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Final, Literal

from sage_jax.data.copies import digest
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Record
from sage_jax.verdict import Language, parse_verdict

_SENTENCES: Final = {
    "leak": "test images are training images as well, to the byte: metrics on them prove nothing",
    "both labels": "images are called good in one record and defective in another",
    "good with mask": "images are called good and have a mask that marks pixels",
    "empty mask": "images are called defective and have a mask that marks nothing",
    "itself": "images are compared with themselves: nothing differs",
    "defective reference": "images are compared with a reference that is called defective itself",
    "two verdicts": "questions have the opposite verdict in another record of the same images",
    "tied": "questions have answers of one and the same score: stage 2 learns no order from them",
}


class Doubts:
    """Contradictions among the records of a data set, by kind, each with its first example.

    Attributes:
      images: Hashes of the images of each split.
    """

    def __init__(self, language: Language = "en") -> None:
        """`language` is that of the answers."""
        self._language: Language = language
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._labels: dict[str, bool] = {}
        self.images: dict[str, set[str]] = {"train": set(), "test": set()}
        self._references: dict[str, str] = {}
        self._verdicts: dict[tuple[str, str, str], bool] = {}

    def add(self, split: Literal["train", "test"], record: Record) -> None:
        """Takes a record; training records come before those of testing."""
        image = digest(record.test_image)
        references = [digest(each.image) for each in record.references]
        self.images[split].add(image)
        if split == "test" and image in self.images["train"]:
            self._tell("leak", image, record)
        if image in references:
            self._tell("itself", image, record)
        if record.anomalous is not None:
            self._add_label(image, record)
            for each in references:
                self._references.setdefault(each, record.test_path)
        shown = f"{image} {' '.join(references)}"
        for number in range(len(record.questions)):
            self._add_question(shown, number, record)

    def sentences(self) -> Iterator[str]:
        """What was found, in sentences."""
        for reference, compared in self._references.items():
            if self._labels.get(reference):
                self._count("defective reference", compared)
        for kind, sentence in _SENTENCES.items():
            if self._counts[kind]:
                yield f"{self._counts[kind]} {sentence}; the first: {self._first[kind]}"

    def _add_label(self, image: str, record: Record) -> None:
        if self._labels.setdefault(image, bool(record.anomalous)) != record.anomalous:
            self._tell("both labels", image, record)
        if record.mask is not None:
            marks = bool(decode_mask(record.mask).any())
            if marks and not record.anomalous:
                self._tell("good with mask", image, record)
            if record.anomalous and not marks:
                self._tell("empty mask", image, record)

    def _add_question(self, shown: str, number: int, record: Record) -> None:
        question = record.questions[number]
        where = f"{record.test_path}, {question.text[:60]!r}"
        scores = {answer.score for answer in question.answers}
        if len(question.answers) > 1 and None not in scores and len(scores) == 1:
            self._count("tied", where)
        verdict = parse_verdict(question.answers[0].text, self._language) if question.answers else None
        if (
            verdict is not None
            and self._verdicts.setdefault((shown, record.pair_type, question.text), verdict) != verdict
        ):
            self._count("two verdicts", where)

    def _tell(self, kind: str, image: str, record: Record) -> None:
        """Counts an image once, however many records it has."""
        if (kind, image) not in self._told:
            self._told.add((kind, image))
            self._count(kind, record.test_path)

    def _count(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, example)
