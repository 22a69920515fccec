"""Rows of other trainers (TRL, LLaMA-Factory, ms-swift, LLaVA, InternVL, SAGE's SFE) as records of ranked answers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from sage_jax.config import DataConfig
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.depth import at_depth
from sage_jax.data.images import ImageFault, decode_rgb, read_inside
from sage_jax.data.records import PAIR_TYPES, Fault, Question, Record, Reference
from sage_jax.data.sources import foreign
from sage_jax.data.sources.items import BadItem, FormatError, Item
from sage_jax.data.sources.named_images import category_of, check_held_out, drawn, relative_path, split_of
from sage_jax.data.sources.rankings import rankings
from sage_jax.data.sources.row_files import WANTED, RowFile, images_root, row_files
from sage_jax.data.sources.row_kinds import Row, kind_of, parse_row

VERSION: Final = 1
MOST_QUESTIONS: Final = 5
"""Questions of a record, as in AD-PL: an image with more gives several, so that no row of a batch grows without end."""


@dataclasses.dataclass
class _Images:
    """All that rows of one file say of the same images.

    Attributes:
      names: Paths below the images' root; the last one's image is tested.
      facts: As the rows give them; None = they give none.
      file, line: Where the first of the rows stands.
      where: What a fault adds to the line.
      asked: Answers that rows give to each question, by its text and id, in the rows' order.
    """

    names: tuple[str, ...]
    facts: tuple[str, ...] | None
    category: str
    file: RowFile
    line: int
    where: str
    asked: dict[tuple[str, str], list[tuple[str, ...]]] = dataclasses.field(default_factory=dict)


def read_records(
    data: DataConfig, split: Literal["train", "test"], seed: int, vocabulary: Vocabulary
) -> Iterator[Record | Fault]:
    """Records of rows, in the order in which their images first come.

    Rows of the same images make one record, or several of at most `MOST_QUESTIONS` questions each; questions with one
    answer stand in records of their own, so that a stage that learns from rankings can leave them out. Rows of the same
    question are joined into ranked answers (`rankings`). Turns of a conversation are questions of their own.

    Of several images the last is tested, and those before it are good references, as in InternVL's rows of SAGE.

    A folder's `train.jsonl` and `test.jsonl` are the splits; else, as for AD-PL, `data.held_out`, or a share
    `data.test_fraction` of the test images by the hash of their path. `repeat_time` repeats training records.

    Raises:
      FormatError: There are no rows of a known trainer, or none of the held-out categories.
    """
    rows: list[tuple[RowFile, Item, Row]] = []
    for found in _rows(data):
        if isinstance(found, Fault):
            yield found
        else:
            rows.append(found)
    images = _by_images(rows, data, vocabulary)
    check_held_out(data, {each.category for each in images})
    here = [one for one in images if (one.file.split or split_of(one.names[-1], one.category, data)) == split]
    chosen = drawn([one.names[-1] for one in here], data.num_train if split == "train" else data.num_test, seed)
    build = _Builder(data, vocabulary, images)
    for one in here:
        if one.names[-1] in chosen:
            for record in build(one):
                yield record
                if isinstance(record, Record) and split == "train":
                    for copy in range(2, one.file.repeat + 1):
                        yield dataclasses.replace(record, record_id=f"{record.record_id}#{copy}")


def _by_images(rows: Sequence[tuple[RowFile, Item, Row]], data: DataConfig, vocabulary: Vocabulary) -> list[_Images]:
    """Rows of the same images and facts together; a row without facts has those that another gives of its images."""
    root = images_root(data)
    shown = [(file.set_name, file.split, _names(row.images, file, root)) for file, _, row in rows]
    facts: dict[object, tuple[str, ...]] = {}
    for key, (_, _, row) in zip(shown, rows, strict=True):
        if row.facts is not None:
            facts.setdefault(key, row.facts)
    images: dict[object, _Images] = {}
    for key, (file, item, row) in zip(shown, rows, strict=True):
        known = facts.get(key) if row.facts is None else row.facts
        if (key, known) not in images:
            category = category_of(None, key[2][-1], vocabulary)
            images[key, known] = _Images(key[2], known, category, file, item.line, item.where)
        for asked in row.asked:
            images[key, known].asked.setdefault((asked.question, row.question_id), []).append(asked.answers)
    return list(images.values())


def files(data: DataConfig) -> Iterator[str]:
    """Paths, relative to the images' root, of every image that rows name; an image may come more than once."""
    root = images_root(data)
    for found in _rows(data):
        if not isinstance(found, Fault):
            yield from _names(found[2].images, found[0], root)


def left_out(data: DataConfig) -> Iterator[str]:
    """What rows hold that is not read, in sentences: system messages, and fields of other names."""
    systems: collections.Counter[str] = collections.Counter()
    unread: collections.Counter[str] = collections.Counter()
    for found in _rows(data):
        if not isinstance(found, Fault):
            unread.update(found[2].unread)
            systems.update([found[2].system] if found[2].system else [])
    if systems:
        shown = systems.most_common(1)[0][0][:60]
        yield (
            f"{data.root}: {systems.total()} rows have a system message, such as {shown!r}, which is not read: set "
            "text.system, which all share"
        )
    width = {"width", "height", "width_list", "height_list"}
    if names := [f"{name} ({count} rows)" for name, count in unread.items() if name not in width]:
        yield f"{data.root}: fields that are not read: {', '.join(sorted(names))}"


def _rows(data: DataConfig) -> Iterator[tuple[RowFile, Item, Row] | Fault]:
    """The rows of all files with their place, and a fault in place of each that cannot be used."""
    for file in row_files(data):
        if isinstance(file, Fault):
            yield file
            continue
        items = list(file.items(data))
        _require_rows(file, [item for item in items if isinstance(item, Item)])
        for item in items:
            if isinstance(item, Fault):
                yield item
                continue
            try:
                yield file, item, parse_row(item.fields)
            except BadItem as error:
                yield Fault(str(file.path), item.line, item.where + error.args[0], error.args[1])


def _require_rows(file: RowFile, items: Sequence[Item]) -> None:
    """Refuses a file of which no item is a row: one error, not one an item."""
    if not items or any(kind_of(item.fields) for item in items):
        return
    fields = [item.fields for item in items]
    kind = foreign.kind_beside_rows(fields)
    if kind is not None:
        raise FormatError(f"{file.path}: holds {kind.name}, no {WANTED}: {kind.cure}")
    keys = ", ".join(list(fields[0])[:4])[:80]
    raise FormatError(
        f"{file.path}: holds objects of {keys}, no {WANTED}: docs/how-to/rows-of-other-trainers.md has the formats"
    )


def _names(images: Sequence[str], file: RowFile, root: Path) -> tuple[str, ...]:
    """Paths of images below the images' root; one that is not below the set's own root may name it already."""
    found = []
    for image in images:
        name = relative_path(root / file.root, image)
        below = name if name.startswith("/") else str(PurePosixPath(file.root) / name)
        found.append(name if name != below and _is_file(root / name) and not _is_file(root / below) else below)
    return tuple(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have, which is told where the image is read
        return False


class _Builder:
    """Makes records of what rows say of images; remembers images that were found whole, and bad ones, told once.

    Args:
      images: Of all rows: a bad image is told where it comes first, whatever the split.
    """

    def __init__(self, data: DataConfig, vocabulary: Vocabulary, images: Sequence[_Images]) -> None:
        self.root, self.bits = images_root(data), data.bits
        self.vocabulary = vocabulary
        self.fill_in = data.facts != "record"
        self.whole: set[str] = set()
        self.bad: set[str] = set()
        self.first = {name: of for of in reversed(images) for name in of.names}
        self.numbers: collections.Counter[str] = collections.Counter()

    def __call__(self, of: _Images) -> Iterator[Record | Fault]:
        """The records of some images, or the first fault of those that no earlier rows had."""
        if not self.bad.isdisjoint(of.names):
            return
        try:
            *references, tested = (Reference(self._image(name), name) for name in of.names)
        except ImageFault as error:
            self.bad.add(error.name)
            first = self.first.get(error.name, of)
            yield Fault(str(first.file.path), first.line, f"{first.where}{error.name} {error.problem}", error.cure)
            return
        questions = [Question(text, each) for (text, _), given in of.asked.items() for each in rankings(given)]
        ranked = [question for question in questions if len(question.answers) > 1]
        alone = [question for question in questions if len(question.answers) == 1]
        parts = [
            tuple(questions[first : first + MOST_QUESTIONS])
            for questions in (ranked, alone)
            for first in range(0, len(questions), MOST_QUESTIONS)
        ]
        facts, name = of.facts, "|".join([*([of.file.set_name] if of.file.set_name else []), *of.names])
        if facts is None:
            known = of.category.lower() in self.vocabulary.objects
            facts = self.vocabulary.facts_for(of.category if known else "") if self.fill_in else ()
        for part in parts:
            self.numbers[name] += 1
            number = self.numbers[name]
            yield Record(
                record_id=name if number == 1 else f"{name}|{number}",
                image_id=of.names[-1],
                test_image=tested.image,
                reference_image=references[0].image if references else None,
                category=of.category,
                pair_type=PAIR_TYPES[0],
                facts=facts,
                questions=part,
                descriptions=(),
                anomalous=None,
                defects=(),
                mask=None,
                test_path=tested.path,
                reference_path=references[0].path if references else "",
                line=of.line,
                further_references=tuple(references[1:]),
                file=of.file.name,
            )

    def _image(self, name: str) -> bytes:
        content = at_depth(read_inside(self.root, name), self.bits, name=name)
        if name not in self.whole:
            decode_rgb(content, name=name)
            self.whole.add(name)
        return content
