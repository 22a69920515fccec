"""Whether the text of every record fits the shapes of the config, found out before anything trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sage_jax.config import DataConfig, ModelConfig, TextConfig
from sage_jax.data.images import ImageFault
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources.readers import place_of
from sage_jax.data.trees.chat import Chat, FactsAs
from sage_jax.data.trees.encode import (
    AnswersKept,
    QuestionKind,
    TreeError,
    count_image_tokens,
    count_reference_tokens,
    encode_text,
)
from sage_jax.data.trees.shapes import TreeShape, choose_bucket, most_needed


@dataclasses.dataclass(frozen=True)
class TextUse:
    """How a stage shows a record: with which answers, which questions, how many of them at once, and its facts.

    Attributes:
      questions_per_image: Questions drawn of each record; 0 = all.
    """

    answers: AnswersKept
    questions: QuestionKind
    facts_as: FactsAs
    questions_per_image: int = 0


def measure_text(
    records: Sequence[Record], use: TextUse, *, data: DataConfig, chat: Chat, model: ModelConfig, text: TextConfig
) -> Iterator[Fault | TreeShape]:
    """What each record's tree can need; or why its text does not fit, with the file, the line and the option to change.

    Of questions drawn at random the longest count, so that no draw can fail where this finds nothing. Of an image only
    the header is read, and that only where the number of its tokens depends on it.
    """
    for index in range(len(records)):
        record = records[index]
        try:
            tokens = encode_text(
                record,
                num_image_tokens=count_image_tokens(record, model=model),
                chat=chat,
                text=text,
                answers=use.answers,
                questions=use.questions,
                facts_as=use.facts_as,
                num_reference_tokens=count_reference_tokens(record, model=model) if text.reference == "prompt" else 0,
            )
            needed = most_needed(tokens, use.questions_per_image)
            choose_bucket([needed.length], [record.record_id], text)
        except (TreeError, ImageFault) as error:
            file, line = place_of(record, data)
            problem, _, cure = str(error).rpartition(": ")
            yield Fault(file, line, problem, cure)
        else:
            yield needed
