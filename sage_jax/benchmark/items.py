"""The items of a question set, and the records that a model is shown of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, overload

import numpy as np

from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.images import read_inside
from sage_jax.data.records import PAIR_TYPES, Answer, Question, Record, Reference
from sage_jax.data.registration import registered
from sage_jax.data.trees.encode import ChosenRecords, RecordCounts

LETTER_ALONE: Final = "Answer with the letter of the right option alone."
IMAGES_NAMED: Final = "Image-1 is the part in question, Image-2 a good part of the same kind."


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question of an item.

    Attributes:
      text: As the set has it.
      kind: Its type, in the set's words.
      options: Text of each option by its letter, A first; none where it is answered by yes or no.
      truth: Letter of the right option, or `Yes` or `No`.
      conclusion: What the set says beside the right answer, for the predictions file.
    """

    text: str
    kind: str
    options: dict[str, str]
    truth: str
    conclusion: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """An image and what is asked about it.

    Attributes:
      key: Names the item in the set, in messages and results.
      file: JSON that it stands in.
      image: Path of the image below the images' root.
      references: Paths of its good references, the first ones first.
      category: What the part is.
      asked: The questions.
      knowledge: What the set knows of such parts, a text for each kind of them.
    """

    key: str
    file: str
    image: str
    references: tuple[str, ...]
    category: str
    asked: tuple[Asked, ...]
    knowledge: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AskForm:
    """How items become records.

    Attributes:
      root: Folder of the images.
      shots: References of each.
      instruction: Sentence behind each question; "" = none.
      knowledge_as: What the items' knowledge becomes: `text` before each question, or `facts`.
      names_images: Whether the prompt shows the reference as a second image, so that the question says which is which.
      register: Whether references are turned and shifted to where the part lies.
    """

    root: Path
    shots: int
    instruction: str = ""
    knowledge_as: str = "text"
    names_images: bool = False
    register: bool = False

    def question(self, item: Item, asked: Asked) -> str:
        """The text of a question, options and all."""
        parts = [*(item.knowledge if self.knowledge_as == "text" else ())]
        parts += [IMAGES_NAMED] if self.names_images and self.shots else []
        parts += [asked.text, *(f"{letter}. {text}" for letter, text in asked.options.items())]
        behind = "\n" if asked.options else " "
        return "\n".join(parts) + (f"{behind}{self.instruction}" if self.instruction else "")


class ItemRecords(Sequence[Record]):
    """The records of items, their images read when they are asked for.

    The answers of a question are the letters of its options, A first: what `Evaluator.rankings` tells apart.
    """

    def __init__(
        self,
        items: Sequence[Item],
        form: AskForm,
        vocabulary: Vocabulary,
        facts: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`facts` are those that a model has written about images, by path."""
        self._items, self._form, self._vocabulary = items, form, vocabulary
        self._facts = facts or {}
        self.counts = RecordCounts(
            questions=max((len(item.asked) for item in items), default=0),
            answers=max((len(asked.options) for item in items for asked in item.asked), default=0),
            references=form.shots,
        )
        self._reference = functools.lru_cache(maxsize=64)(functools.partial(read_inside, form.root))

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> ChosenRecords: ...

    def __getitem__(self, index: int | slice) -> Record | ChosenRecords:
        """The record of an item.

        Raises:
          ImageFault: An image has gone, or lies outside the root.
        """
        if isinstance(index, slice):
            return ChosenRecords(self, range(len(self))[index])
        item, form = self._items[index], self._form
        image = read_inside(form.root, item.image)
        paths = item.references[: form.shots]
        references = [Reference(self._reference(path), path) for path in paths]
        if form.register:
            references = [Reference(registered(image, each.image, name=item.image), each.path) for each in references]
        return Record(
            record_id=item.key,
            image_id=item.image,
            test_image=image,
            reference_image=references[0].image if references else None,
            category=item.category,
            pair_type=PAIR_TYPES[0],
            facts=self.facts_of(index),
            questions=tuple(
                Question(form.question(item, asked), tuple(Answer(letter) for letter in asked.options))
                for asked in item.asked
            ),
            descriptions=(),
            anomalous=None,
            defects=(),
            mask=None,
            test_path=item.image,
            reference_path=references[0].path if references else "",
            further_references=tuple(references[1:]),
        )

    def facts_of(self, index: int) -> tuple[str, ...]:
        """Facts of an item: the first sentence of each text of its knowledge, or else what a model has written about
        its image, or the vocabulary's on its category.
        """
        item = self._items[index]
        if self._form.knowledge_as == "facts" and item.knowledge:
            return tuple(_first_sentence(text) for text in item.knowledge)
        written = self._facts.get(item.image)
        return self._vocabulary.facts_for(item.category) if written is None else written


def drawn(items: Sequence[Item], num_questions: int, seed: int) -> list[Item]:
    """The items of images drawn until they have so many questions, in the order of the set; 0 = all items."""
    by_image: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        by_image.setdefault(item.image, []).append(number)
    if not num_questions:
        return list(items)
    images, chosen, asked = list(by_image), [], 0
    for index in np.random.default_rng(seed).permutation(len(images)):
        numbers = by_image[images[index]]
        more = sum(len(items[number].asked) for number in numbers)
        if chosen and asked + more > num_questions:
            break
        chosen, asked = [*chosen, *numbers], asked + more
    return [items[number] for number in sorted(chosen)]


def _first_sentence(text: str) -> str:
    """The first sentence, headings in angle brackets and labels taken off."""
    plain = " ".join(text.split())
    while plain.startswith("<") and ">" in plain:
        plain = plain.partition(">")[2].strip()
    plain = plain.removeprefix("Description:").strip()
    first, stop, _ = plain.partition(". ")
    return first + stop.strip()
