"""AD-PL's JSON: a list of items, each a pair of images, one kind, 5 questions and their 4 ranked answers."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np

from sage_jax.config import DataConfig, nearest
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.images import ImageFault, decode_rgb, forward_slashes, read_inside
from sage_jax.data.records import Answer, Fault, Question, Record, validate
from sage_jax.data.sources import foreign
from sage_jax.errors import UserError

VERSION: Final = 1
NUM_QUESTIONS: Final = 5
NUM_ANSWERS: Final = 4
_ITEM_KEYS: Final = (
    *("test_image", "reference_image", "pair_type", "question_answer", "category", "facts", "anomalous", "id"),
    *("domain", "conclusion_en", "conclusion_cn"),
)
_QUESTION_KEYS: Final = ("question_en", "answer_options", "question_cn", "conclusion_en", "conclusion_cn")
_OPTION_KEYS: Final = ("answer_en", "score", "answer_cn")
_GAP: Final = re.compile(r"[\s,]*")
_NEXT_ITEM: Final = re.compile(r"\{")
_MOST_TRIED: Final = 500


class FormatError(UserError):
    """A file that is no AD-PL JSON at all."""


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of the list as it stands in the file, the line that it begins on, and its number, from 1.

    Attributes:
      where: What a fault adds to the line where several items begin on it: "item 3: "; else "".
    """

    line: int
    number: int
    fields: dict[str, Any]
    where: str = ""


class _BadItem(ValueError):
    """What is wrong with an item's structure; the second argument is the way out."""


def read_items(path: Path) -> list[Item | Fault]:
    """The items of an AD-PL JSON with their lines. One that cannot be parsed is a fault and does not lose the others.

    A file of JSON lines, an item a line, is read as well as a list.

    Raises:
      FormatError: The file cannot be read, is not UTF-8, holds no list or lines, or those of another format.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}: set data.root to the AD-PL JSON file") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    in_list = text.lstrip().startswith("[")
    if not in_list and not text.lstrip().startswith("{"):
        raise FormatError(f"{path}: holds no list: an AD-PL JSON begins with '[' and holds one object an item")
    newlines = [match.start() for match in re.finditer("\n", text)]
    items: list[Item | Fault] = []
    decoder = json.JSONDecoder()
    number = 0
    position = _skip(text, text.index("[") + 1) if in_list else _skip(text, 0)
    while position < len(text) and text[position] != "]":
        line = bisect.bisect_left(newlines, position) + 1
        number += 1
        try:
            value, end = decoder.raw_decode(text, position)
            if isinstance(value, dict):
                items.append(Item(line, number, value))
            else:
                items.append(Fault(str(path), line, f"item {number} is a {type(value).__name__}", "make it an object"))
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            if isinstance(error, json.JSONDecodeError):
                line = error.lineno
            items.append(Fault(str(path), line, f"item {number} cannot be parsed: {problem}", "correct the JSON"))
            end = _next_item(text, position + 1, decoder)
        position = _skip(text, end)
    _refuse_other_kinds(path, [item.fields for item in items if isinstance(item, Item)], in_list)
    if position >= len(text) and in_list:
        items.append(Fault(str(path), len(newlines) + 1, "ends inside the list", "complete the file, which is cut off"))
    elif text[position + 1 :].strip() and in_list:
        line = bisect.bisect_left(newlines, position) + 1
        items.append(Fault(str(path), line, "goes on after the list's end", "remove the ']' there, or what follows it"))
    begun = collections.Counter(item.line for item in items if isinstance(item, Item))
    return [
        dataclasses.replace(item, where=f"item {item.number}: ")
        if isinstance(item, Item) and begun[item.line] > 1
        else item
        for item in items
    ]


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

    Any other key is a fault, so that a misspelt one is not passed over, except those of AD-PL and of MANTA's questions
    that nothing here reads (Chinese texts, `domain`, `conclusion_en`) and keys that begin with `_`.

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
            name = _clean(_text(item.fields, "test_image"))
        except _BadItem as error:
            yield Fault(str(path), item.line, item.where + error.args[0], error.args[1])
            continue
        category = _category(item.fields, name, vocabulary)
        categories.add(_plain(category))
        if _split_of(name, category, data) == split:
            items.append((item, name))
    for held_out in data.held_out:
        if categories and _plain(held_out) not in categories:
            raise FormatError(
                f"data.held_out: {path} has no category {held_out!r}; it has {', '.join(sorted(categories))}"
            )
    chosen = _drawn([name for _, name in items], data.num_train if split == "train" else data.num_test, seed)
    build = _Builder(path, images_root(data), vocabulary, fill_in=data.facts != "record")
    for item, name in items:
        if name in chosen:
            yield from build(item)


def images_root(data: DataConfig) -> Path:
    """Folder that the JSON's image paths are relative to."""
    return Path(data.images_root).expanduser() if data.images_root else Path(data.root).expanduser().parent


def files(data: DataConfig) -> Iterator[str]:
    """Paths, relative to the images' root, of every image that the JSON names; an image may come more than once."""
    for item in read_items(Path(data.root).expanduser()):
        if isinstance(item, Item):
            names = (item.fields.get(key) for key in ("test_image", "reference_image"))
            yield from (_clean(name) for name in names if isinstance(name, str) and name)


class _Builder:
    """Makes records of items; remembers images that were found whole and ids that were taken."""

    def __init__(self, path: Path, root: Path, vocabulary: Vocabulary, *, fill_in: bool) -> None:
        """`fill_in` gives items without facts those of the vocabulary."""
        self.fill_in = fill_in
        self.path = path
        self.root = root
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
        except _BadItem as error:
            yield self._fault(item, error.args[0], error.args[1])
            return
        faults = validate(record, num_questions=NUM_QUESTIONS, num_answers=NUM_ANSWERS)
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
            _text(fields, "category")
        name = _clean(_text(fields, "test_image"))
        reference = _clean(_text(fields, "reference_image")) if fields.get("reference_image") is not None else ""
        pair_type = _text(fields, "pair_type")
        category = _category(fields, name, self.vocabulary)
        anomalous = fields.get("anomalous")
        if anomalous is not None and not isinstance(anomalous, bool):
            raise _BadItem(f"anomalous is {anomalous!r}", "write true or false, or leave it out")
        return Record(
            record_id=_text(fields, "id") if "id" in fields else f"{name}|{reference}|{pair_type}",
            image_id=name,
            test_image=self._image(name),
            reference_image=self._image(reference) if reference else None,
            category=category,
            pair_type=pair_type,
            facts=self._facts(fields, category),
            questions=tuple(
                _question(number, value) for number, value in enumerate(_list(fields, "question_answer"), 1)
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
            return tuple(_text({"facts": fact}, "facts", "a sentence of ") for fact in _list(fields, "facts"))
        return self.vocabulary.facts_for(category) if self.fill_in else ()

    def _image(self, name: str) -> bytes:
        data = read_inside(self.root, name)
        if name not in self.whole_images:
            decode_rgb(data, name=name)
            self.whole_images.add(name)
        return data


def _question(number: int, value: Any) -> Question:
    if not isinstance(value, dict):
        raise _BadItem(f"question {number} is a {type(value).__name__}", "make it an object with question_en")
    _check_keys(value, _QUESTION_KEYS, f"question {number}: ")
    answers = []
    for rank, option in enumerate(_list(value, "answer_options", f"question {number}: "), start=1):
        where = f"question {number}, answer {rank}: "
        if not isinstance(option, dict):
            raise _BadItem(f"{where}is a {type(option).__name__}", "make it an object with answer_en")
        _check_keys(option, _OPTION_KEYS, where)
        score = option.get("score")
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise _BadItem(f"{where}score is {score!r}", "give a number from 1 to 5, or leave it out")
        if isinstance(score, int) and not 1 <= score <= 5:  # before float(), which huge integers overflow
            raise _BadItem(f"{where}score is out of range", "give a score from 1 to 5")
        answers.append(Answer(_text(option, "answer_en", where), None if score is None else float(score)))
    return Question(_text(value, "question_en", f"question {number}: "), tuple(answers))


def _check_keys(fields: dict[str, Any], known: tuple[str, ...], where: str = "") -> None:
    """Refuses a key that nothing reads: it may be a misspelt one."""
    for key in fields:
        if key not in known and not key.startswith("_"):
            like = nearest(key, known).removeprefix("; ").removesuffix("?")
            raise _BadItem(
                f"{where}key {key[:40]!a} is unknown", f"{like}; else remove it, or begin it with _ to have it left"
            )


def _text(fields: dict[str, Any], key: str, where: str = "") -> str:
    if key not in fields:
        raise _BadItem(f"{where}{key} is missing", "add it")
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        shown = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
        raise _BadItem(f"{where}{key} is {shown}", "give it a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and no file or tokenizer can take
        raise _BadItem(f"{where}{key} holds half a character: {value!a}", "write the whole character") from None
    return value.strip()


def _list(fields: dict[str, Any], key: str, where: str = "") -> list[Any]:
    if key not in fields:
        raise _BadItem(f"{where}{key} is missing", "add it")
    if not isinstance(fields[key], list):
        raise _BadItem(f"{where}{key} is a {type(fields[key]).__name__}", "make it a list")
    return fields[key]


def _clean(name: str) -> str:
    """A path without needless parts, so that an image has one id; `..` and a leading `/` stay, to be refused."""
    return str(PurePosixPath(forward_slashes(name.strip())))


def _category(fields: dict[str, Any], name: str, vocabulary: Vocabulary) -> str:
    """The item's own category, else the first folder that the vocabulary knows, else the first folder."""
    given = fields.get("category")
    if isinstance(given, str) and given.strip():
        return given.strip()
    folders = [part.replace("_", " ") for part in PurePosixPath(name).parts[:-1]]
    named = [folder for folder in folders if folder.lower() in vocabulary.objects]
    return (named or folders or ["part"])[0]


def _split_of(name: str, category: str, data: DataConfig) -> Literal["train", "test"]:
    if data.held_out:
        return "test" if _plain(category) in {_plain(other) for other in data.held_out} else "train"
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return "test" if share < data.test_fraction else "train"


def _plain(category: str) -> str:
    return category.replace("_", " ").strip().lower()


def _drawn(names: list[str], num: int, seed: int) -> set[str]:
    """All images, or a seeded draw of `num` of them."""
    unique = sorted(set(names))
    if num == 0 or num >= len(unique):
        return set(unique)
    return {unique[index] for index in np.random.default_rng([VERSION, seed]).permutation(len(unique))[:num]}


def _skip(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return match.end() if match else position


def _next_item(text: str, position: int, decoder: json.JSONDecoder) -> int:
    """Where the next whole item begins after a broken one; the end of the text if there is none.

    Of places that could be the beginning of one so many are tried: a text made of nothing else is not read for ever.
    """
    for match in itertools.islice(_NEXT_ITEM.finditer(text, position), _MOST_TRIED):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "test_image" in value:
            return match.start()
    return len(text)
