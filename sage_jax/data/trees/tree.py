"""Tree-shaped token sequences: one image, its questions and their ranked answers in one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.records import Record
from sage_jax.data.trees.chat import check_placeholders
from sage_jax.data.trees.encode import (
    QuestionTokens,
    RecordPixels,
    RecordTokens,
    TileForm,
    TreeError,
    TreeFormat,
    TreeUse,
    decode_pixels,
    encode_text,
    pixel_form,
    tiles_per_image,
)
from sage_jax.data.trees.labels import NAME_TOKENS
from sage_jax.data.trees.shapes import TreeShape, tree_length
from sage_jax.data.trees.tiles import tokens_per_side


@dataclasses.dataclass(frozen=True)
class TreeRow:
    """One row before padding: a record's text and pixels, and what of them the row shows.

    Attributes:
      tokens: The text.
      pixels: The tiles.
      question_ids: Which of the record's questions, in this order.
      with_reference: Whether the row shows the reference image, if there is one; under `text.reference` = `prompt` the
        text has its placeholders just then.
      record_index: Row of the data set.
    """

    tokens: RecordTokens
    pixels: RecordPixels
    question_ids: tuple[int, ...]
    with_reference: bool
    record_index: int

    @property
    def questions(self) -> tuple[QuestionTokens, ...]:
        """The chosen questions."""
        return tuple(self.tokens.questions[question] for question in self.question_ids)

    @property
    def length(self) -> int:
        """Tokens of the tree."""
        return tree_length(self.tokens, self.question_ids)


def build_tree(
    record: Record,
    form: TreeFormat,
    use: TreeUse,
    *,
    with_reference: bool,
    question_ids: Sequence[int] | None = None,
    record_index: int = 0,
) -> TreeRow:
    """The tree of one record.

    Args:
      with_reference: Whether the row shows the reference image.
      question_ids: Which of the record's questions; None = all.
      record_index: Row of the data set, kept for later.

    Raises:
      TreeError: The record does not fit.
      ImageFault: An image cannot be read.
    """
    pixels = decode_pixels(record, model=form.model)
    tokens = encode_text(record, form, use, with_reference=with_reference)
    chosen = range(len(tokens.questions)) if question_ids is None else question_ids
    return TreeRow(tokens, pixels, tuple(chosen), with_reference, record_index)


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Room of a batch, the same for all batches of a data set, so that they have one shape.

    Attributes:
      questions: Questions of an image (Q).
      answers: Answers of a question (N).
      references: References that a row may show; each has room for as many tiles as the test image.
    """

    questions: int
    answers: int
    references: int = 1


def stack_rows(
    rows: Sequence[TreeRow | None],
    form: TreeFormat,
    capacity: Capacity,
    shape: TreeShape,
    *,
    tile_form: TileForm | None = None,
) -> TreeBatch:
    """Rows padded to static shapes; None gives a padding row, masked throughout, of record index -1.

    The first `source_index` of every answer of a question is the question's last token, also where there is no answer:
    the position from which to generate one.

    Args:
      shape: Length of the tree (S), and of its blocks.
      tile_form: Of the rows' tiles; None = pixels.

    Returns:
      A batch of numpy arrays.

    Raises:
      TreeError: A row has more tokens, questions or answers than there is room for.
      ChatError: A row's placeholders and embeddings differ in number.
    """
    sizes = {"model": form.model, "text": form.text, "pad_id": form.chat.pad_id, "tile_form": tile_form}
    batch = empty_batch(len(rows), capacity, shape, **sizes)
    for index, row in enumerate(rows):
        if row is None:
            continue
        _check_room(row, capacity, shape)
        _check_placeholders(row, form)
        _write_pixels(batch, index, row)
        _write_tree(batch, index, row)
    return batch


def _check_room(row: TreeRow, capacity: Capacity, shape: TreeShape) -> None:
    most = max((len(question.answers) for question in row.questions), default=0)
    asked = len(row.questions)
    if row.length > shape.length or asked > capacity.questions or most > capacity.answers:
        raise TreeError(
            f"record {row.tokens.record_id}: {row.length} tokens, {asked} questions, {most} answers do not fit"
            f" into {shape.length} tokens, {capacity.questions} questions, {capacity.answers} answers"
        )


def _check_placeholders(row: TreeRow, form: TreeFormat) -> None:
    shown = len(row.pixels.tiles)
    if form.text.reference == "prompt" and row.with_reference:
        shown += sum(map(len, row.pixels.references))
    check_placeholders(
        row.tokens.prefix_ids,
        form.chat,
        shown * tokens_per_side(form.model) ** 2,
        form.text.max_facts if row.tokens.has_comparison else 0,
        record_id=row.tokens.record_id,
    )


def empty_batch(
    rows: int,
    capacity: Capacity,
    shape: TreeShape,
    *,
    model: ModelConfig,
    text: TextConfig,
    pad_id: int,
    tile_form: TileForm | None = None,
) -> TreeBatch:
    """A batch of padding rows: the shapes and dtypes that every batch of these sizes has."""
    tiles, tile_form = tiles_per_image(model), tile_form or pixel_form(model)
    reference_tiles = tiles * capacity.references
    ranked = (rows, capacity.questions, capacity.answers)
    length = text.max_answer_tokens
    return TreeBatch(
        tiles=np.zeros((rows, tiles, *tile_form.shape), tile_form.dtype),
        tile_mask=np.zeros((rows, tiles), np.bool_),
        reference_tiles=np.zeros((rows, reference_tiles, *tile_form.shape), tile_form.dtype),
        reference_tile_mask=np.zeros((rows, reference_tiles), np.bool_),
        fact_ids=np.zeros((rows, text.max_facts, text.max_fact_tokens), np.int32),
        fact_mask=np.zeros((rows, text.max_facts, text.max_fact_tokens), np.bool_),
        token_ids=np.full((rows, shape.length), pad_id, np.int32),
        token_mask=np.zeros((rows, shape.length), np.bool_),
        position_ids=np.zeros((rows, shape.length), np.int32),
        question_index=np.full((rows, shape.length), -1, np.int32),
        answer_index=np.full((rows, shape.length), -1, np.int32),
        source_index=np.zeros((*ranked, length), np.int32),
        target_ids=np.full((*ranked, length), pad_id, np.int32),
        target_mask=np.zeros((*ranked, length), np.bool_),
        claim_mask=np.zeros((*ranked, length), np.bool_),
        scores=np.zeros(ranked, np.float32),
        answer_mask=np.zeros(ranked, np.bool_),
        question_ids=np.full((rows, capacity.questions), -1, np.int32),
        reference_logps=np.zeros(ranked, np.float32),
        token_labels=np.full((rows, tiles * tokens_per_side(model) ** 2), -1, np.float32),
        token_names=np.full((rows, tiles * tokens_per_side(model) ** 2, NAME_TOKENS), -1, np.int32),
        record_index=np.full(rows, -1, np.int32),
        score_shift=np.zeros(rows, np.float32),
        prefix_slots=shape.prefix_slots,
        question_slots=shape.question_slots,
        answer_slots=min(shape.answer_slots, length),
        target_slots=min(shape.target_slots, capacity.questions * capacity.answers * length),
    )


def _write_pixels(batch: TreeBatch, index: int, row: TreeRow) -> None:
    pixels = row.pixels
    batch.tiles[index, : len(pixels.tiles)] = pixels.tiles
    batch.tile_mask[index, : len(pixels.tiles)] = True
    for number, tiles in enumerate(pixels.references if row.with_reference else ()):
        first = number * batch.tiles.shape[1]
        batch.reference_tiles[index, first : first + len(tiles)] = tiles
        batch.reference_tile_mask[index, first : first + len(tiles)] = True
    labels = pixels.labels
    if labels.anomalous is not None:
        batch.token_labels[index, : len(labels.anomalous)] = labels.anomalous
    shown = np.flatnonzero(labels.defects >= 0)
    batch.token_names[index, shown] = row.tokens.defect_names[labels.defects[shown]]
    batch.record_index[index] = row.record_index


def _write_tree(batch: TreeBatch, index: int, row: TreeRow) -> None:
    token_ids, positions = batch.token_ids[index], batch.position_ids[index]
    prefix = row.tokens.prefix_ids
    token_ids[: len(prefix)] = prefix
    # Placeholders of missing facts take no position: a row with two facts equals a prompt written with two.
    positions[: len(prefix)] = np.maximum(np.cumsum(row.tokens.prefix_mask) - 1, 0)
    branch = int(positions[len(prefix) - 1]) + 1
    batch.token_mask[index, : row.length] = True
    batch.token_mask[index, : len(prefix)] = row.tokens.prefix_mask
    batch.fact_ids[index], batch.fact_mask[index] = row.tokens.fact_ids, row.tokens.fact_mask
    batch.question_ids[index, : len(row.question_ids)] = row.question_ids
    num_answers = batch.answer_mask.shape[2]
    steps = np.arange(token_ids.shape[0], dtype=np.int32)
    start = len(prefix)
    for slot, question in enumerate(row.questions):
        end = start + len(question.ids)
        token_ids[start:end] = question.ids
        positions[start:end] = branch + steps[: end - start]
        batch.question_index[index, start : end + sum(map(len, question.answers))] = slot
        batch.source_index[index, slot, :, 0] = end - 1
        answer_branch, start = branch + end - start, end
        for rank, answer in enumerate(question.answers):
            size = len(answer)
            token_ids[start : start + size] = answer
            positions[start : start + size] = answer_branch + steps[:size]
            batch.answer_index[index, start : start + size] = slot * num_answers + rank
            batch.source_index[index, slot, rank, 1:size] = start + steps[: size - 1]
            batch.target_ids[index, slot, rank, :size] = answer
            batch.target_mask[index, slot, rank, :size] = True
            batch.claim_mask[index, slot, rank, :size] = question.claims[rank]
            batch.scores[index, slot, rank] = question.scores[rank]
            batch.answer_mask[index, slot, rank] = True
            start += size
