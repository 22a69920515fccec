"""A record as token ids and tiles, before it is laid out as a tree."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, overload, runtime_checkable

import numpy as np

from sage_jax.axes import Bool, Float, Int, UInt8
from sage_jax.config import ModelConfig, TextConfig, TrainConfig
from sage_jax.data.images import remembered_rgb
from sage_jax.data.records import Question, Record
from sage_jax.data.trees.chat import Chat, ChatError, FactsAs
from sage_jax.data.trees.claims import name_pattern
from sage_jax.data.trees.labels import NAME_TOKENS, TokenLabels, label_tokens
from sage_jax.data.trees.tiles import image_size, num_tiles, tile_image, tokens_per_side
from sage_jax.errors import UserError

AnswersKept = Literal["best", "ranked", "none"]
QuestionKind = Literal["inspection", "description"]

BEST_SCORE, WORST_SCORE = 5.0, 1.0


class TreeError(UserError):
    """A record that does not fit the tree's static shapes; the message names it and the option to change."""


@dataclasses.dataclass(frozen=True)
class TreeFormat:
    """The form that a run gives to all of its trees.

    Attributes:
      chat: Template and tokenizer.
      model: Sizes of tiles and image tokens.
      text: Shapes of the tree.
      names: Names of defects and places, whose tokens are marked in answers (`TreeBatch.claim_mask`).
    """

    chat: Chat
    model: ModelConfig
    text: TextConfig
    names: tuple[str, ...] = ()

    def names_in(self, record: Record) -> re.Pattern[str] | None:
        """Finds the names, and those of the record's own defects, which a vocabulary may not list."""
        return _pattern(self.names, frozenset(defect.type for defect in record.defects))


@functools.lru_cache(maxsize=256)
def _pattern(names: tuple[str, ...], more: frozenset[str]) -> re.Pattern[str] | None:
    return name_pattern((*names, *more))


@dataclasses.dataclass(frozen=True)
class TreeUse:
    """The parts of a record that a stage puts into its trees.

    Attributes:
      answers: `best`, all (`ranked`), or `none`: prompts only, for generation.
      questions: The record's questions, or its descriptions.
      facts: Comparison embeddings, or plain text in the prompt.
      questions_per_image: Questions drawn of each record; 0 = all.
    """

    answers: AnswersKept
    questions: QuestionKind = "inspection"
    facts: FactsAs = "fusion"
    questions_per_image: int = 0

    @classmethod
    def of(cls, train: TrainConfig) -> TreeUse:
        """The use of a training stage."""
        return cls(train.answers, train.questions, train.facts, train.questions_per_image)


@dataclasses.dataclass(frozen=True)
class QuestionTokens:
    """A question's token ids, and its answers' with their judge scores, best first.

    Attributes:
      claims: True at the tokens of each answer that carry its verdict or a name.
    """

    ids: Int[np.ndarray, " S"]
    answers: tuple[Int[np.ndarray, " _"], ...]
    scores: tuple[float, ...]
    claims: tuple[Bool[np.ndarray, " _"], ...] = ()

    @property
    def length(self) -> int:
        return len(self.ids) + sum(len(answer) for answer in self.answers)


@dataclasses.dataclass(frozen=True)
class RecordTokens:
    """A record's text as token ids.

    Attributes:
      record_id: The record.
      prefix_ids: Token ids up to the question.
      prefix_mask: False at the comparison placeholders of missing facts.
      fact_ids: Token ids of the facts; 0 where masked.
      fact_mask: True at real fact tokens.
      questions: Questions and answers.
      defect_names: Token ids of the name of each of the record's defects; -1 behind a name's last.
      has_comparison: Whether the prefix holds comparison placeholders, one for each fact that a record can have.
    """

    record_id: str
    prefix_ids: Int[np.ndarray, " S"]
    prefix_mask: Bool[np.ndarray, " S"]
    fact_ids: Int[np.ndarray, "F J"]
    fact_mask: Bool[np.ndarray, "F J"]
    questions: tuple[QuestionTokens, ...]
    defect_names: Int[np.ndarray, "_ J"]
    has_comparison: bool

    @property
    def nbytes(self) -> int:
        """Memory of the token ids; 128 bytes for each array's header."""
        arrays = [self.prefix_ids, self.prefix_mask, self.fact_ids, self.fact_mask, self.defect_names]
        for question in self.questions:
            arrays += [question.ids, *question.answers]
        return sum(array.nbytes + 128 for array in arrays)


@dataclasses.dataclass(frozen=True)
class RecordPixels:
    """A record's tiles, as pixels or as ViT features, those of each reference by themselves; what image tokens show."""

    tiles: UInt8[np.ndarray, "T H W 3"] | Float[np.ndarray, "T _ E"]
    references: tuple[UInt8[np.ndarray, "T H W 3"] | Float[np.ndarray, "T _ E"], ...]
    labels: TokenLabels

    @property
    def nbytes(self) -> int:
        return self.labels.nbytes + sum(array.nbytes + 128 for array in (self.tiles, *self.references))


@dataclasses.dataclass(frozen=True)
class RecordCounts:
    """The most questions, answers and references of any record of a data set, for the static shapes of batches."""

    questions: int = 0
    answers: int = 0
    descriptions: int = 0
    description_answers: int = 0
    references: int = 0

    def including(self, record: Record) -> RecordCounts:
        """The counts with one more record."""
        return RecordCounts(
            max(self.questions, len(record.questions)),
            max([self.answers, *(len(question.answers) for question in record.questions)]),
            max(self.descriptions, len(record.descriptions)),
            max([self.description_answers, *(len(question.answers) for question in record.descriptions)]),
            max(self.references, len(record.references)),
        )


def count_records(records: Iterable[Record]) -> RecordCounts:
    """The most questions, answers and references that any of the records has; reads them all."""
    counts = RecordCounts()
    for record in records:
        counts = counts.including(record)
    return counts


@runtime_checkable
class Counted(Protocol):
    """Records that know their counts, so that none has to be read for them."""

    counts: RecordCounts


class ChosenRecords(Sequence[Record]):
    """Some records of a data set, read as they are asked for, under the whole data set's counts.

    The counts give batches their shape, which must be the whole data set's whichever records are chosen.
    """

    def __init__(self, records: Sequence[Record], indices: Sequence[int]):
        self._records, self._indices = records, indices
        self.counts = records.counts if isinstance(records, Counted) else count_records(records)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> ChosenRecords: ...

    def __getitem__(self, index: int | slice) -> Record | ChosenRecords:
        if isinstance(index, slice):
            return ChosenRecords(self._records, self._indices[index])
        return self._records[self._indices[index]]


@dataclasses.dataclass(frozen=True)
class TileForm:
    """Shape and dtype of a tile in a batch."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def pixel_form(model: ModelConfig) -> TileForm:
    """Of tiles as pixels."""
    return TileForm((model.vit.tile_px, model.vit.tile_px, 3), np.dtype(np.uint8))


def feature_form(model: ModelConfig, dtype: np.dtype) -> TileForm:
    """Of tiles as ViT features, pixel-shuffled."""
    return TileForm((model.tokens_per_tile, model.vit.embed_dim * model.downsample**2), dtype)


def tiles_per_image(model: ModelConfig) -> int:
    """Most tiles of an image, thumbnail counted: T of a batch."""
    return model.max_tiles + int(model.max_tiles > 1)


def count_image_tokens(record: Record, *, model: ModelConfig) -> int:
    """Image tokens of a record's test image, from its header alone where tiling depends on its size.

    Raises:
      ImageFault: The image cannot be read.
    """
    return count_tokens(record.test_image, record.test_path, model)


def count_reference_tokens(record: Record, *, model: ModelConfig) -> int:
    """Image tokens of a record's reference image, found in the same way; 0 without one.

    Raises:
      ImageFault: The image cannot be read.
    """
    if record.reference_image is None:
        return 0
    return count_tokens(record.reference_image, record.reference_path, model)


def count_tokens(image: bytes, name: str, model: ModelConfig) -> int:
    """Image tokens of an encoded image, in the same way."""
    per_tile = tokens_per_side(model) ** 2
    if model.max_tiles == 1:
        return per_tile
    width, height = image_size(image, name=name)
    return per_tile * num_tiles(width, height, tile_px=model.vit.tile_px, max_tiles=model.max_tiles)


def questions_of(record: Record, questions: QuestionKind) -> tuple[Question, ...]:
    """A record's questions of one kind.

    Raises:
      TreeError: There is none.
    """
    found = record.questions if questions == "inspection" else record.descriptions
    if not found:
        name = "questions" if questions == "inspection" else "descriptions"
        raise TreeError(
            f"record {record.record_id} has no {name}: leave the stage out or use a source that gives {name}"
        )
    return found


def encode_text(record: Record, form: TreeFormat, use: TreeUse, *, with_reference: bool) -> RecordTokens:
    """Token ids of a record's prefix, questions and answers.

    A question of which some answer has no judge score is scored by rank, evenly from 5 (best) to 1 (worst).

    Args:
      with_reference: Whether the row shows the reference image; under `text.reference` = `prompt` the prefix has its
        placeholders just then.

    Raises:
      TreeError: An answer or fact is too long, or the record has no such questions.
      ImageFault: The header of an image cannot be read, where its number of tokens depends on it.
    """
    chat, facts = form.chat, [fact for fact in record.facts if fact.strip()][: form.text.max_facts]
    in_prompt = with_reference and form.text.reference == "prompt"
    if in_prompt and record.further_references:
        raise TreeError(
            f"record {record.record_id} has {len(record.references)} references, and text.reference = 'prompt' shows"
            " one: give one, or set text.reference = 'fusion'"
        )
    prefix = chat.prefix_ids(
        count_image_tokens(record, model=form.model),
        facts=facts,
        facts_as=use.facts,
        num_reference_tokens=count_reference_tokens(record, model=form.model) if in_prompt else 0,
    )
    mask = np.ones(prefix.shape, np.bool_)
    mask[np.flatnonzero(prefix == chat.comparison_id)[len(facts) :]] = False
    try:
        fact_ids, fact_mask = chat.fact_ids(facts if use.facts == "fusion" else ())
    except ChatError as error:
        raise TreeError(f"record {record.record_id}: {error}") from None
    asked = questions_of(record, use.questions)
    return RecordTokens(
        record_id=record.record_id,
        prefix_ids=prefix,
        prefix_mask=mask,
        fact_ids=fact_ids,
        fact_mask=fact_mask,
        questions=tuple(_encode_question(question, form, use, record) for question in asked),
        defect_names=chat.name_ids([defect.type for defect in record.defects], length=NAME_TOKENS),
        has_comparison=use.facts == "fusion",
    )


def _encode_question(question: Question, form: TreeFormat, use: TreeUse, record: Record) -> QuestionTokens:
    record_id, names = record.record_id, form.names_in(record)
    kept = {"best": question.answers[:1], "ranked": question.answers, "none": ()}[use.answers]
    if use.answers != "none" and not kept:
        raise TreeError(f"record {record_id}: question {question.text!r} has no answer to train on")
    encoded = tuple(form.chat.answer_ids(answer.text) for answer in kept)
    longest, most = max(map(len, encoded), default=0), form.text.max_answer_tokens
    if longest > most:
        raise TreeError(
            f"record {record_id}: an answer to {question.text!r} has {longest} tokens:"
            f" raise text.max_answer_tokens (now {most})"
        )
    scores = [answer.score for answer in question.answers]
    judged = [score for score in scores if score is not None]
    if len(judged) < len(scores):
        judged = np.linspace(BEST_SCORE, WORST_SCORE, len(scores)).tolist()
    ids = form.chat.question_ids(question.text, facts_as=use.facts)
    claims = tuple(form.chat.answer_claims(answer.text, names) for answer in kept)
    return QuestionTokens(ids, encoded, tuple(judged[: len(kept)]), claims)


def decode_pixels(record: Record, *, model: ModelConfig) -> RecordPixels:
    """Tiles of a record's images, and its token labels.

    A part known to be good needs no mask: its labels are 0.

    Raises:
      ImageFault: An image cannot be read.
    """
    image = remembered_rgb(record.test_image, name=record.test_path, keep=False)
    tiled = tile_image(image, tile_px=model.vit.tile_px, max_tiles=model.max_tiles)
    height, width = image.shape[:2]
    labels = label_tokens(record, tiled, width, height, model=model)
    size = {"tile_px": model.vit.tile_px, "max_tiles": model.max_tiles}
    references = tuple(_reference_tiles(each.image, name=each.path, **size) for each in record.references)
    return RecordPixels(tiled.tiles, references, labels)


@functools.lru_cache(maxsize=64)
def _reference_tiles(image: bytes, *, name: str, tile_px: int, max_tiles: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Tiles of a reference, read-only: many images in a row may be compared with one, which is decoded once then."""
    pixels = remembered_rgb(image, name=name, keep=False)
    tiles = tile_image(pixels, tile_px=tile_px, max_tiles=max_tiles).tiles
    tiles.flags.writeable = False
    return tiles
