"""The static shapes that batches of trees are padded to: buckets of the config, chosen from the data, or steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from sage_jax.config import TextConfig
from sage_jax.data.trees.encode import RecordTokens, TreeError


@dataclasses.dataclass(frozen=True)
class TreeShape:
    """Static sizes of a batch of trees, see `TreeBatch`; or what a tree needs of each.

    Attributes:
      length: All tokens of a tree.
      prefix_slots, question_slots, answer_slots: The longest prefix, question and answer.
      target_slots: Answer tokens of a tree.
    """

    length: int
    prefix_slots: int = 0
    question_slots: int = 0
    answer_slots: int = 0
    target_slots: int = 0

    def holds(self, other: TreeShape) -> bool:
        """Whether none of its sizes is below the other's."""
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return all(size >= needed for size, needed in zip(mine, others, strict=True))

    def __str__(self) -> str:
        slots = (self.prefix_slots, self.question_slots, self.answer_slots, self.target_slots)
        return f"{self.length} ({'/'.join(map(str, slots))})"


@dataclasses.dataclass(frozen=True)
class ChosenShapes:
    """The shapes of a stage's batches, the shortest first, of which the last holds every tree that it can draw.

    Attributes:
      padding: Share of the measured batches' tokens that are none.
    """

    shapes: tuple[TreeShape, ...]
    padding: float

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.shapes))
        return (
            f"trees are padded to {listed} tokens (prefix/question/answer/all answers); "
            f"expected padding {self.padding:.1%}"
        )


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """A batch that a stage will draw: what its trees need, and how many of its tokens are real."""

    needed: TreeShape
    num_rows: int
    num_tokens: int


ROUNDED_TO: Final = 8
"""Chosen sizes are multiples of it, on all devices: GPUs and TPUs compute products of such lengths in full, and the
kernels of attention pad to whole blocks of their own."""

PREFIX_STEPS: Final = 8
"""Prefixes are padded to eighths of the bucket: few shapes, for each of them compiles the step anew."""

TARGET_STEPS: Final = 4
"""Answer tokens of a tree, whose logits alone are padded, to quarters of the bucket."""

SHORTEST_BLOCK: Final = 32
"""Slots of a question and of an answer come in this number and its doubles."""

LENGTH_STEPS: Final = 4
"""Lengths between a power of two and the next, where neither buckets nor shapes are given."""


def tree_length(tokens: RecordTokens, question_ids: Sequence[int]) -> int:
    """Tokens of a record's tree with these of its questions."""
    return len(tokens.prefix_ids) + sum(tokens.questions[index].length for index in question_ids)


def needed_shape(tokens: RecordTokens, question_ids: Sequence[int]) -> TreeShape:
    """What a record's tree with these of its questions needs, to the token."""
    asked = [tokens.questions[index] for index in question_ids]
    answers = [len(answer) for question in asked for answer in question.answers]
    return TreeShape(
        tree_length(tokens, question_ids),
        prefix_slots=len(tokens.prefix_ids),
        question_slots=max((len(question.ids) for question in asked), default=0),
        answer_slots=max(answers, default=0),
        target_slots=sum(answers),
    )


def most_needed(tokens: RecordTokens, questions_per_image: int) -> TreeShape:
    """What a record's tree can need at most, whichever of its questions are drawn; 0 = all are."""
    drawn = questions_per_image or len(tokens.questions)
    all_asked = needed_shape(tokens, range(len(tokens.questions)))
    lengths = sorted((question.length for question in tokens.questions), reverse=True)
    targets = sorted((sum(map(len, question.answers)) for question in tokens.questions), reverse=True)
    return dataclasses.replace(
        all_asked, length=len(tokens.prefix_ids) + sum(lengths[:drawn]), target_slots=sum(targets[:drawn])
    )


def enclosing(shapes: Iterable[TreeShape]) -> TreeShape:
    """The least shape that holds all of these."""
    return TreeShape(*map(max, zip(*map(dataclasses.astuple, shapes), strict=True)))


def rounded(needed: TreeShape) -> TreeShape:
    """The least shape of multiples of `ROUNDED_TO` that holds what is needed."""
    return TreeShape(*(-(-size // ROUNDED_TO) * ROUNDED_TO for size in dataclasses.astuple(needed)))


def choose_shapes(batches: Sequence[BatchSize], largest: TreeShape, num_shapes: int) -> ChosenShapes:
    """At most so many shapes that pad these batches, each to the shortest that holds it, with the fewest tokens.

    A shape has the slots that the measured batches of its length need. A batch that needs more than was measured comes
    into a longer one.

    Args:
      batches: Of a stage, all of the same number of rows.
      largest: What any tree of the stage can need; the longest shape holds it.
      num_shapes: Most shapes.
    """
    sizes = [rounded(batch.needed).length for batch in batches]
    shapes, padded = [], 0
    lengths = least_lengths(sizes, rounded(largest).length, num_shapes)
    for shorter, length in zip((0, *lengths), lengths, strict=False):
        held = [batch.needed for batch, size in zip(batches, sizes, strict=True) if size <= length]
        needed = largest if length == lengths[-1] else enclosing(held)
        shapes.append(dataclasses.replace(rounded(needed), length=length))
        rows = (batch.num_rows for batch, size in zip(batches, sizes, strict=True) if shorter < size <= length)
        padded += length * sum(rows)
    real = sum(batch.num_tokens for batch in batches)
    return ChosenShapes(tuple(shapes), 1.0 - real / padded if padded else 0.0)


def least_lengths(lengths: Sequence[int], longest: int, num_lengths: int) -> tuple[int, ...]:
    """At most so many lengths, ascending, the last `longest`, to which these are padded with the fewest tokens.

    Exact: the best choice that ends with a length extends a best choice, of one length less, that ends with a shorter
    one.

    Args:
      lengths: Of each batch; none is above `longest`.
    """
    candidates, counts = np.unique([*lengths, longest], return_counts=True)
    counts[-1] -= 1
    at_most = np.concatenate([[0], np.cumsum(counts)])  # batches up to each candidate, the ones before it first
    # By its last length: tokens of all batches up to it, and the choice.
    best = [(int(size * at_most[last + 1]), (last,)) for last, size in enumerate(candidates)]
    for _ in range(num_lengths - 1):
        best = [
            min(
                best[last],
                *(
                    (best[before][0] + int(size * (at_most[last + 1] - at_most[before + 1])), (*best[before][1], last))
                    for before in range(last)
                ),
                key=lambda choice: (choice[0], len(choice[1])),
            )
            if last
            else best[last]
            for last, size in enumerate(candidates)
        ]
    return tuple(int(candidates[index]) for index in best[-1][1])


def choose_shape(
    tokens: Sequence[RecordTokens],
    asked: Sequence[Sequence[int]],
    text: TextConfig,
    chosen: Sequence[TreeShape] = (),
) -> TreeShape:
    """The smallest of the few static shapes that holds every tree.

    Args:
      tokens: The records' text.
      asked: Which of its questions each tree holds.
      text: The buckets.
      chosen: The shapes in place of buckets, the shortest first; none = by buckets or steps.

    Raises:
      TreeError: A tree is longer than the largest of them.
    """
    needed = [needed_shape(one, ids) for one, ids in zip(tokens, asked, strict=True)]
    together = enclosing(needed)
    if not chosen:
        bucket = choose_bucket([one.length for one in needed], [one.record_id for one in tokens], text)
        return shape_of(
            bucket,
            longest_prefix=together.prefix_slots,
            longest_question=together.question_slots,
            longest_answer=together.answer_slots,
            answer_tokens=together.target_slots,
        )
    for shape in chosen:
        if shape.holds(together):
            return shape
    record_id = next(one.record_id for one, each in zip(tokens, needed, strict=True) if not chosen[-1].holds(each))
    raise TreeError(
        f"record {record_id}: its batch needs {together} tokens, the longest of the stage has {chosen[-1]}: the data "
        "has changed since the stage began; start it again"
    )


def shape_of(
    bucket: int, *, longest_prefix: int, longest_question: int, longest_answer: int, answer_tokens: int
) -> TreeShape:
    """The shape of a bucket with room for a prefix, a question, an answer and all answers of so many tokens."""

    def steps(tokens: int, number: int) -> int:
        step = -(-bucket // number)
        return max(-(-tokens // step), 1) * step

    def doubles(tokens: int) -> int:
        return SHORTEST_BLOCK * 2 ** max(math.ceil(math.log2(max(tokens, 1) / SHORTEST_BLOCK)), 0)

    return TreeShape(
        bucket,
        prefix_slots=min(steps(longest_prefix, PREFIX_STEPS), bucket),
        question_slots=doubles(longest_question),
        answer_slots=doubles(longest_answer),
        target_slots=steps(answer_tokens, TARGET_STEPS),
    )


def choose_bucket(lengths: Sequence[int], record_ids: Sequence[str], text: TextConfig) -> int:
    """The smallest bucket that holds every tree; without buckets the step of the longest.

    Raises:
      TreeError: A tree is longer than the largest bucket.
    """
    longest = max(lengths)
    bucket = bucket_for(longest, text)
    if bucket is not None:
        return bucket
    raise TreeError(
        f"record {record_ids[list(lengths).index(longest)]}: its tree has {longest} tokens:"
        f" add a bucket of {longest} or more to text.buckets (now {text.buckets}), empty it, or lower"
        " questions_per_image"
    )


def bucket_for(length: int, text: TextConfig) -> int | None:
    """The smallest bucket for so many tokens; None where none is long enough.

    Without buckets it is the next quarter between two powers of two, at most a quarter longer: whatever the lengths,
    few shapes, and each follows from its own batch alone.
    """
    if text.buckets:
        return next((bucket for bucket in text.buckets if bucket >= length), None)
    step = max(2 ** math.ceil(math.log2(max(length, 2))) // 2 // LENGTH_STEPS, ROUNDED_TO)
    return -(-length // step) * step
