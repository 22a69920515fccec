"""AD-PL's JSON: a list of items, each a pair of images, one kind, 5 questions and their 4 ranked answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from sage_jax.config import DataConfig, nearest
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.depth import at_depth
from sage_jax.data.images import ImageFault, decode_rgb, read_inside
from sage_jax.data.records import Answer, Fault, Question, Record, validate
from sage_jax.data.sources import foreign
from sage_jax.data.sources.items import BadItem, FormatError, Item, holds_list, json_kind, list_of, parse_items, text_of
from sage_jax.data.sources.named_images import (
    category_of,
    check_held_out,
    clean_path,
    drawn,
    images_root,
    split_of,
)
from sage_jax.verdict import Language

VERSION: Final = 1
NUM_QUESTIONS: Final = 5
NUM_ANSWERS: Final = 4
_ITEM_KEYS: Final = (
    *("test_image", "reference_image", "pair_type", "question_answer", "category", "facts", "anomalous", "id"),
    *("domain", "conclusion_en", "conclusion_cn"),
)
_QUESTION_KEYS: Final = ("question_en", "answer_options", "question_cn", "conclusion_en", "conclusion_cn")
_OPTION_KEYS: Final = ("answer_en", "score", "answer_cn")


class TextKeys(NamedTuple):
    """Keys of the texts of one language."""

    question: str
    answer: str


TEXT_KEYS: Final[dict[Language, TextKeys]] = {
    "en": TextKeys("question_en", "answer_en"),
    "zh": TextKeys("question_cn", "answer_cn"),
}


def read_items(path: Path) -> list[Item | Fault]:
    """The items of an AD-PL JSON with their lines. One that cannot be parsed is a fault and does not lose the others.

    A file of JSON lines, an item a line, is read as well as a list.

    Raises:
      FormatError: The file cannot be read, is not UTF-8, holds no list or lines, or those of another format.
    """
    items = parse_items(path, marks=("test_image",), wanted="an AD-PL JSON")
    fields = [item.fields for item in items if isinstance(item, Item)]
    _refuse_other_kinds(path, fields, holds_list(path))
    return items


def _refuse_other_kinds(path: Path, fields: list[dict[str, Any]], in_list: bool) -> None:
    known = [one for one in fields if "test_image" in one and not foreign.item_kind([one])]
    if not fields or known:
        return
    kind = foreign.item_kind(fields) if in_list or len(fields) > 1 else foreign.object_kind(fields[0])
    if kind is not None:
        raise FormatError(f"{path}: holds {kind.name}, no AD-PL items: {kind.cure}")
    if not in_list and len(fields) == 1 and "question_answer" not in fields[0]:
        keys = ", ".join(list(fields[0])[:4])[:80]
        raise FormatError(f"{path}: holds one object ({keys}), no list: AD-PL JSON is a list with an object an item")


def read_records(
    data: DataConfig, split: Literal["train", "test"], seed: int, vocabulary: Vocabulary
) -> Iterator[Record | Fault]:
    """Records of an AD-PL JSON, in the file's order.

    The format has no split: with `data.held_out` those categories are for testing, else a share `data.test_fraction`
    of the test images, by a hash of their path that no seed changes, so that all items of an image stay together.
    With `data.num_train` or `data.num_test` above 0, that many images are drawn, each with all of its items.

    Beyond the published fields an item may have `category`, `facts` (a list of sentences), `anomalous` (true or
    false) and `id`, and an answer option `score` (1 to 5). Without them, the category is the first folder of the test
    image's path that names an object of the vocabulary, else its first folder; facts are those of the vocabulary, or
    none with `data.facts` = `record`; whether the part is anomalous stays unknown: no part of a path says so reliably.

    Questions and answers are those of `data.language`; an item without them is a fault, whatever other it has.

    Any other key is a fault, so that a misspelt one is not passed over, except those of AD-PL and of MANTA's questions
    that nothing here reads (texts of the other language, `domain`, `conclusion_en`) and keys that begin with `_`.

    Raises:
      FormatError: The file is no AD-PL JSON, or has none of the held-out categories.
    """
    path = Path(data.root).expanduser()
    items: list[tuple[Item, str]] = []
    categories: set[str] = set()
    for item in read_items(path):
        if isinstance(item, Fault):
            yield item
            continue
        try:
            name = clean_path(text_of(item.fields, "test_image"))
        except BadItem as error:
            yield Fault(str(path), item.line, item.where + error.args[0], error.args[1])
            continue
        category = category_of(item.fields.get("category"), name, vocabulary)
        categories.add(category)
        if split_of(name, category, data) == split:
            items.append((item, name))
    check_held_out(data, categories)
    chosen = drawn([name for _, name in items], data.num_train if split == "train" else data.num_test, seed)
    build = _Builder(path, data, vocabulary)
    for item, name in items:
        if name in chosen:
            yield from build(item)


def files(data: DataConfig) -> Iterator[str]:
    """Paths, relative to the images' root, of every image that the JSON names; an image may come more than once."""
    for item in read_items(Path(data.root).expanduser()):
        if isinstance(item, Item):
            names = (item.fields.get(key) for key in ("test_image", "reference_image"))
            yield from (clean_path(name) for name in names if isinstance(name, str) and name)


class _Builder:
    """Makes records of items; remembers images that were found whole and ids that were taken."""

    def __init__(self, path: Path, data: DataConfig, vocabulary: Vocabulary) -> None:
        self.fill_in = data.facts != "record"  # items without facts get those of the vocabulary
        self.language: Language = data.language
        self.path = path
        self.root, self.bits = images_root(data), data.bits
        self.vocabulary = vocabulary
        self.whole_images: set[str] = set()
        self.taken: dict[str, Item] = {}

    def __call__(self, item: Item) -> Iterator[Record | Fault]:
        """The record of an item, or everything wrong with it, at its line."""
        try:
            record = self._record(item.fields, item.line)
        except ImageFault as error:
            yield self._fault(item, f"{error.name} {error.problem}", error.cure)
            return
        except BadItem as error:
            yield self._fault(item, error.args[0], error.args[1])
            return
        faults = validate(record, num_questions=NUM_QUESTIONS, num_answers=NUM_ANSWERS, language=self.language)
        yield from (self._fault(item, fault.problem, fault.cure) for fault in faults)
        first = self.taken.setdefault(record.record_id, item)
        if first is not item:
            earlier = f"item {first.number}" if item.where else f"the item of line {first.line}"
            problem = f"has the same id as {earlier}: {record.record_id}"
            yield self._fault(item, problem, "remove one, or give each its own id")
        elif not faults:
            yield record

    def _fault(self, item: Item, problem: str, cure: str) -> Fault:
        return Fault(str(self.path), item.line, item.where + problem, cure)

    def _record(self, fields: dict[str, Any], line: int) -> Record:
        _check_keys(fields, _ITEM_KEYS)
        if fields.get("category") is not None:
            text_of(fields, "category")
        name = clean_path(text_of(fields, "test_image"))
        reference = clean_path(text_of(fields, "reference_image")) if fields.get("reference_image") is not None else ""
        pair_type = text_of(fields, "pair_type")
        category = category_of(fields.get("category"), name, self.vocabulary)
        anomalous = fields.get("anomalous")
        if anomalous is not None and not isinstance(anomalous, bool):
            raise BadItem(f"anomalous is {anomalous!r}", "write true or false, or leave it out")
        return Record(
            record_id=text_of(fields, "id") if "id" in fields else f"{name}|{reference}|{pair_type}",
            image_id=name,
            test_image=self._image(name),
            reference_image=self._image(reference) if reference else None,
            category=category,
            pair_type=pair_type,
            facts=self._facts(fields, category),
            questions=tuple(
                _question(number, value, TEXT_KEYS[self.language])
                for number, value in enumerate(list_of(fields, "question_answer"), 1)
            ),
            descriptions=(),
            anomalous=anomalous,
            defects=(),
            mask=None,
            test_path=name,
            reference_path=reference,
            line=line,
        )

    def _facts(self, fields: dict[str, Any], category: str) -> tuple[str, ...]:
        if "facts" in fields:
            return tuple(text_of({"facts": fact}, "facts", "a sentence of ") for fact in list_of(fields, "facts"))
        return self.vocabulary.facts_for(category) if self.fill_in else ()

    def _image(self, name: str) -> bytes:
        data = at_depth(read_inside(self.root, name), self.bits, name=name)
        if name not in self.whole_images:
            decode_rgb(data, name=name)
            self.whole_images.add(name)
        return data


def _question(number: int, value: Any, keys: TextKeys) -> Question:
    if not isinstance(value, dict):
        raise BadItem(f"question {number} is {json_kind(value)}", f"make it an object with {keys.question}")
    _check_keys(value, _QUESTION_KEYS, f"question {number}: ")
    answers = []
    for rank, option in enumerate(list_of(value, "answer_options", f"question {number}: "), start=1):
        where = f"question {number}, answer {rank}: "
        if not isinstance(option, dict):
            raise BadItem(f"{where}is {json_kind(option)}", f"make it an object with {keys.answer}")
        _check_keys(option, _OPTION_KEYS, where)
        score = option.get("score")
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise BadItem(f"{where}score is {score!r}", "give a number from 1 to 5, or leave it out")
        if isinstance(score, int) and not 1 <= score <= 5:  # before float(), which huge integers overflow
            raise BadItem(f"{where}score is out of range", "give a score from 1 to 5")
        answers.append(Answer(text_of(option, keys.answer, where), None if score is None else float(score)))
    return Question(text_of(value, keys.question, f"question {number}: "), tuple(answers))


def _check_keys(fields: dict[str, Any], known: tuple[str, ...], where: str = "") -> None:
    """Refuses a key that nothing reads: it may be a misspelt one."""
    for key in fields:
        if key not in known and not key.startswith("_"):
            like = nearest(key, known).removeprefix("; ").removesuffix("?")
            raise BadItem(
                f"{where}key {key[:40]!a} is unknown", f"{like}; else remove it, or begin it with _ to have it left"
            )
