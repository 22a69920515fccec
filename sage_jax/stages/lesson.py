"""What stage `learn` trains on: corrections as ranked answers, and replayed records of the run's own data set."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from collections.abc import Callable, Sequence

from sage_jax.config import ConfigError
from sage_jax.corrections.groups import CorrectedImage, corrected_images, group_records, unknown_kinds
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.preferences import Kinds
from sage_jax.data.records import Record
from sage_jax.stages.run import Run


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is learnt, and what it is measured on.

    Attributes:
      trained, held_out: Corrected images.
      trained_records, held_out_records: The record of each that asks whether there is a defect.
      records: All that trains: records of corrections, then replayed ones.
      num_own: Those of corrections.
      unknown_kinds: Kinds that people named and the vocabulary does not list.
      in_pieces: Of these, those that the tokenizer writes in several pieces.
      left_out: Sentences and records of corrections that are longer than an answer may be.
    """

    trained: Sequence[CorrectedImage]
    held_out: Sequence[CorrectedImage]
    trained_records: Sequence[Record]
    held_out_records: Sequence[Record]
    records: Sequence[Record]
    num_own: int
    unknown_kinds: tuple[str, ...]
    in_pieces: tuple[str, ...]
    left_out: int

    def __str__(self) -> str:
        names = f"{len(self.trained)} corrected images train and {len(self.held_out)} are held out"
        text = f"{names}; {self.num_own} records of them, {len(self.records) - self.num_own} replayed"
        if self.unknown_kinds:
            text += f"; kinds that the vocabulary does not list: {', '.join(self.unknown_kinds)}"
        if self.in_pieces:
            text += f"; the tokenizer writes these in several pieces: {', '.join(self.in_pieces)}"
        if self.left_out:
            text += f"; {self.left_out} texts are longer than text.max_answer_tokens and left out"
        return text


def make_lesson(run: Run, name: str, store: CorrectionStore) -> Lesson:
    """The lesson of a run's corrections.

    Args:
      name: Training stage of the present model, whose data are replayed.

    Raises:
      ConfigError: There are fewer corrected images than `learn.least`.
      UserError: A correction or the data set cannot be read.
    """
    config = run.config.learn
    images = corrected_images(store, run.vocabulary)
    distinct = len({each.key for each in images})
    if distinct < config.least:
        raise ConfigError(
            f"{distinct} corrected images are too few to learn from and to measure on: correct {config.least} or more, "
            "or lower learn.least"
        )
    trained, held_out = hold_out(images, config.held_out)
    replayed = _replayed(run, name, len(trained))
    fits = _Fits(lambda text: len(run.chat.answer_ids(text)), run.config.text.max_answer_tokens)
    kinds = kinds_of(replayed)
    parts = [
        [record for record in group_records(part, run.vocabulary, seed=run.config.seed, kinds=kinds, fits=fits)]
        for part in (trained, held_out)
    ]
    own, held = ([record for record in part if fits.all_of(record)] for part in parts)
    kept = replayed[: round(config.replay * len(own))]
    unknown = unknown_kinds(images, run.vocabulary)
    pieces = [kind for kind in unknown if any(run.chat.name_ids([word], length=8)[0, 1] >= 0 for word in kind.split())]
    return Lesson(
        trained=trained,
        held_out=held_out,
        trained_records=[record for record in own if record.record_id.endswith("/c")],
        held_out_records=[record for record in held if record.record_id.endswith("/c")],
        records=[*own, *kept],
        num_own=len(own),
        unknown_kinds=tuple(unknown),
        in_pieces=tuple(pieces),
        left_out=fits.refused,
    )


def hold_out(images: Sequence[CorrectedImage], share: float) -> tuple[list[CorrectedImage], list[CorrectedImage]]:
    """Splits corrected images by a hash of the image, so that one that is held out stays so as more are corrected.

    Returns:
      Those that train and those that are held out: of two images or more, at least one each.
    """
    keys = sorted({each.key for each in images}, key=lambda key: hashlib.sha256(f"held out {key}".encode()).digest())
    number = min(len(keys) - 1, max(1, math.ceil(share * len(keys))))
    held = set(keys[:number])
    return [each for each in images if each.key not in held], [each for each in images if each.key in held]


def kinds_of(records: Sequence[Record]) -> Kinds:
    """How many records of each category show each kind of defect."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        counts = found.setdefault(record.category, {})
        for kind in {defect.type for defect in record.defects}:
            counts[kind] = counts.get(kind, 0) + 1
    return found


def _replayed(run: Run, name: str, num_images: int) -> list[Record]:
    """Training records of the run with ranked answers, drawn by its seed and the number of corrected images."""
    stored = run.records("train", wanted_by=name)
    wanted = min(len(stored), math.ceil(run.config.learn.replay * num_images * 3))
    drawn = random.Random(f"{run.config.seed} {num_images}").sample(range(len(stored)), wanted)
    records = (stored[index] for index in drawn)
    return [record for record in records if any(len(asked.answers) > 1 for asked in record.questions)]


class _Fits:
    """Whether a text is short enough for an answer; counts what is not."""

    def __init__(self, length: Callable[[str], int], most: int) -> None:
        self._length, self._most = length, most
        self.refused = 0

    def __call__(self, text: str) -> bool:
        fits = self._length(text) <= self._most
        self.refused += not fits
        return fits

    def all_of(self, record: Record) -> bool:
        """Whether all answers of a record fit."""
        return all([self(answer.text) for asked in record.questions for answer in asked.answers])
