"""What the text of a question alone tells of its answer: how often each text was answered yes and no."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Final

from sage_jax.data.records import Question, Record
from sage_jax.data.sources.adpl_json import NUM_QUESTIONS
from sage_jax.verdict import Language, parse_verdict


@dataclasses.dataclass(frozen=True)
class QuestionVerdicts:
    """Verdicts of the best answers by question.

    A reader of the question alone answers with what was said more often; a text that never came gets what all texts
    together got more often. Equal numbers are answered with no.

    Attributes:
      counts: Numbers of no and of yes by text.
    """

    counts: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def add(self, record: Record, reads: str = "question", *, language: Language = "en") -> None:
        """Counts the questions of a record under what the reader goes by, one of READERS."""
        for question in record.questions:
            verdict = parse_verdict(question.answers[0].text, language) if question.answers else None
            if verdict is not None:
                self.counts.setdefault(READERS[reads](record, question), [0, 0])[verdict] += 1

    def majority(self, text: str) -> bool:
        """What the reader of the question alone answers."""
        no, yes = self.counts.get(text) or self.sums
        return yes > no

    @property
    def sums(self) -> list[int]:
        """Numbers of no and of yes over all texts."""
        return [sum(each) for each in zip(*self.counts.values(), strict=True)] or [0, 0]


@dataclasses.dataclass(frozen=True)
class TextOnly:
    """What a reader of the questions alone would get.

    Attributes:
      accuracy: Share of right verdicts, 0 to 1.
      chance: Share of the more frequent verdict: what always saying the same would get.
      n: Questions.
    """

    accuracy: float
    chance: float
    n: int

    @property
    def tells(self) -> bool:
        """Whether the reader is above chance by more than `MOST_ABOVE_CHANCE` and two standard errors.

        The errors are those of images, since the questions of one image share its verdict.
        """
        images = max(1.0, self.n / NUM_QUESTIONS)
        error = math.sqrt(self.chance * (1.0 - self.chance) / images)
        return self.accuracy > self.chance + MOST_ABOVE_CHANCE + 2.0 * error


MOST_ABOVE_CHANCE: Final = 0.03
_WORDS: Final = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")

READERS: Final[dict[str, Callable[[Record, Question], str]]] = {
    "question": lambda record, question: question.text,
    "length": lambda record, question: str(len(_WORDS.findall(question.text))),
    "facts": lambda record, question: " ".join(record.facts),
}
"""What readers without the image may go by: the question's text, its number of words (a Chinese character is one), the
record's facts."""


def text_only_by_kind(known: QuestionVerdicts, asked: Iterable[tuple[str, str, bool]]) -> dict[str, TextOnly]:
    """What the reader gets on other questions, for each kind that occurs, in alphabetic order.

    Args:
      known: Counts of the records that the reader has learnt from.
      asked: Kind, text and true verdict of each question.
    """
    right: collections.Counter[str] = collections.Counter()
    truths: dict[str, list[int]] = {}
    for kind, text, verdict in asked:
        truths.setdefault(kind, [0, 0])[verdict] += 1
        right[kind] += known.majority(text) == verdict
    return {
        kind: TextOnly(right[kind] / sum(counts), max(counts) / sum(counts), sum(counts))
        for kind, counts in sorted(truths.items())
    }
