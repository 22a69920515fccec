"""Corrections as ranked answers: what the person said first, the model's own wrong answer last, drawn ones between."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image

from sage_jax.corrections.entries import Correction, CorrectionFault, InspectionEntry
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION, PLACES, Kinds, cell_of, make_records
from sage_jax.data.records import NOWHERE, PAIR_TYPES, AnnotatedImage, Answer, Box, Defect, Question, Record, Reference
from sage_jax.metrics.mle import Reading, read
from sage_jax.verdict import parse_verdict

_WORST: Final = 1.0
_STEP: Final = 0.25
"""What the model's own answer scores below the answer before it, where its verdict is right."""

Fits = Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class CorrectedImage:
    """An image with what a person said of it.

    Attributes:
      entry: The inspection, with its standing correction.
      said: That correction.
      image: The image with the defects that were said.
    """

    entry: InspectionEntry
    said: Correction
    image: AnnotatedImage

    @property
    def key(self) -> str:
        """Digest of the image: the same image is held out, or trained on, whenever it is corrected."""
        return self.entry.image


def corrected_images(store: CorrectionStore, vocabulary: Vocabulary) -> list[CorrectedImage]:
    """The corrected images of a store, oldest correction first; of an image corrected twice the last correction.

    Raises:
      CorrectionFault: An image's file is damaged, an answer is not English, or a box lies outside its image.
    """
    found: dict[tuple[str, tuple[str, ...]], CorrectedImage] = {}
    for entry in reversed(store.corrected()):
        standing = entry.correction.correction if entry.correction else None
        if standing is None:
            continue
        if entry.language != "en":
            raise CorrectionFault(
                f"inspection {entry.id}: its answer is {entry.language!r}: English ones alone are learnt"
            )
        key = (entry.image, entry.references)
        found.pop(key, None)
        found[key] = CorrectedImage(entry, standing, _annotated(entry, standing, store, vocabulary))
    return list(found.values())


def unknown_kinds(images: Sequence[CorrectedImage], vocabulary: Vocabulary) -> list[str]:
    """Kinds that people named and the vocabulary does not list, in alphabetic order; they keep their own name."""
    known = {*vocabulary.defects, *vocabulary.defect_terms, *vocabulary.synonyms}
    named = {vocabulary.defect_of(defect.type) for each in images for defect in each.image.defects}
    return sorted(words.term for words in named if not words.generic and not {words.name, words.term} & known)


def group_records(
    images: Sequence[CorrectedImage],
    vocabulary: Vocabulary,
    *,
    seed: int,
    kinds: Kinds | None = None,
    fits: Fits = lambda text: True,
) -> list[Record]:
    """Records of corrected images in AD-PL's form: 5 questions of a kind, 4 ranked answers each.

    The question whether there is a defect holds what was said: the person's answer first, the model's own last where
    it is wrong. Where the kind of the defect is known, or the part is good, records of the other kinds of question
    follow, as annotated defects have them.

    Args:
      images: The images.
      vocabulary: Words of objects and defects.
      seed: Seed of wording and choice.
      kinds: What the run's data set shows (`make_records`).
      fits: Whether an answer is short enough to be learnt; a person's sentence that is not is left out.
    """
    made: list[Record] = []
    for each in images:
        generic = any(vocabulary.defect_of(defect.type).generic for defect in each.image.defects)
        types = PAIR_TYPES[:1] if generic else PAIR_TYPES
        records = make_records(
            each.image, vocabulary, pair_types=types, records=len(types), index=0, seed=seed, kinds=_kinds(kinds, each)
        )
        made.append(_as_said(records[0], each, vocabulary, fits))
        made += records[1:]
    return made


def _kinds(kinds: Kinds | None, image: CorrectedImage) -> Kinds:
    """The data set's kinds and those of the image, which a person may have named for the first time."""
    counts = dict((kinds or {}).get(image.image.category, {}))
    for defect in image.image.defects:
        if defect.type:
            counts[defect.type] = counts.get(defect.type, 0) + 1
    return {image.image.category: counts}


def _annotated(
    entry: InspectionEntry, said: Correction, store: CorrectionStore, vocabulary: Vocabulary
) -> AnnotatedImage:
    content = store.image(entry.image)
    references = [Reference(store.image(digest), f"reference of {entry.name}") for digest in entry.references]
    defects: tuple[Defect, ...] = ()
    if said.verdict == "defective":
        width, height = _size(content, entry)
        kind, box, cell = said.kind, said.box, said.cell
        if said.right and not (kind or box or cell):
            kind, cell = _named(read_answer(entry.reason, vocabulary))
        if box is not None and not (box.right <= width and box.bottom <= height):
            raise CorrectionFault(
                f"inspection {entry.id}: box {box} lies outside its image of {width} x {height} px: correct it anew"
            )
        defects = (Defect(kind, box or (box_of_cell(cell, width, height) if cell else NOWHERE)),)
    return AnnotatedImage(
        image_id=f"correction-{entry.image[:16]}",
        test_image=content,
        reference_image=references[0].image if references else None,
        category=entry.category or "part",
        defects=defects,
        mask=None,
        test_path=entry.name,
        reference_path=references[0].path if references else "",
        further_references=tuple(references[1:]),
    )


def box_of_cell(cell: str, width: int, height: int) -> Box:
    """The cell of the 3 x 3 grid as a box, px; its middle lies in the cell.

    Raises:
      CorrectionFault: There is no such cell.
    """
    if cell not in PLACES:
        raise CorrectionFault(f"cell {cell!r}: give one of {', '.join(PLACES)}")
    row, column = divmod(PLACES.index(cell), 3)
    left, top = column * width // 3, row * height // 3
    return Box(left, top, max(left + 1, (column + 1) * width // 3), max(top + 1, (row + 1) * height // 3))


def read_answer(answer: str, vocabulary: Vocabulary, more: Sequence[str] = ()) -> Reading:
    """What an answer says; `more` are kinds that the vocabulary does not list."""
    return read(answer, defect_terms=vocabulary.terms_with(more), places=PLACES, synonyms=vocabulary.synonyms)


def _named(said: Reading) -> tuple[str, str]:
    """Kind and cell of the first finding that an answer names; "" where it names none."""
    for terms, places in said.clauses:
        return min(terms, default=""), min(places, default="")
    return "", ""


def _size(content: bytes, entry: InspectionEntry) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(content)) as header:
            return header.size
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of files that are none
        raise CorrectionFault(f"inspection {entry.id}: its image {entry.name} cannot be read: {error}") from None


def _as_said(record: Record, image: CorrectedImage, vocabulary: Vocabulary, fits: Fits) -> Record:
    """The record with the person's and the model's own answer to the question whether there is a defect."""
    questions = [
        dataclasses.replace(asked, answers=_ranked(asked, image, vocabulary, fits))
        if asked.text == INSPECTION_QUESTION
        else asked
        for asked in record.questions
    ]
    return dataclasses.replace(record, questions=tuple(questions))


def _ranked(asked: Question, image: CorrectedImage, vocabulary: Vocabulary, fits: Fits) -> tuple[Answer, ...]:
    """Four answers: the person's, two drawn ones, and the model's own or the drawn wrong verdict."""
    own, said = " ".join(image.entry.reason.split()), image.said
    best, *drawn = asked.answers
    true = said.verdict == "defective"
    if said.sentence and fits(text := f"{best.text} {_sentence(said.sentence)}"):
        best = Answer(text, best.score)
    elif said.right and not said.sentence and parse_verdict(own) == true and fits(own):
        best = Answer(own, best.score)
    wrong = bool(own) and fits(own) and _is_wrong(own, image, vocabulary)
    taken = {_plain(best.text), *([_plain(own)] if wrong else [])}
    between = [answer for answer in drawn if _plain(answer.text) not in taken]
    if not wrong:
        return (best, *between)
    between = between[: len(drawn) - 1]
    before = between[-1].score if between else best.score
    score = _WORST if parse_verdict(own) != true else max(_WORST, (before or _WORST) - _STEP)
    return (best, *between, Answer(own, score))


def _is_wrong(own: str, image: CorrectedImage, vocabulary: Vocabulary) -> bool:
    """Whether the model's answer says what the person's contradicts: another verdict, kind or place."""
    said = image.said
    if parse_verdict(own) != (said.verdict == "defective"):
        return True
    if said.right or said.verdict == "good":
        return False
    kinds = [defect.type for defect in image.image.defects if defect.type]
    found = read_answer(own, vocabulary, kinds)
    terms = {vocabulary.defect_of(kind).term for kind in kinds}
    other_kind = bool(terms and found.terms and not found.terms & terms)
    placed = [defect.box for defect in image.image.defects if defect.placed]
    cells = {cell_of(box, *_size(image.image.test_image, image.entry)) for box in placed}
    return other_kind or bool(cells and found.places and not found.places & cells)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()
