"""Yes-or-no questions of MANTA and of MPDD QA: `JsonData/<domain>_QA.json`, a list of images with questions."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sage_jax.benchmark.items import Asked, Item
from sage_jax.benchmark.question_json import (
    LineFinder,
    QuestionSet,
    objects_in,
    parse,
    read_text,
)
from sage_jax.config import BenchmarkConfig
from sage_jax.data.records import PAIR_TYPES, Fault
from sage_jax.data.sources import foreign
from sage_jax.data.sources.items import BadItem, json_kind, text_of
from sage_jax.data.sources.named_images import clean_path
from sage_jax.errors import ConfigError


def read_manta(config: BenchmarkConfig) -> QuestionSet:
    """The items of one such file, or of all `*_QA.json` in a folder.

    An item may have `reference_image`; without, it is asked zero-shot alone. Its conclusion is what the set says beside
    the right answer, and no part of what is asked.

    Raises:
      ConfigError: A file cannot be read, or holds something else.
    """
    root = Path(config.root).expanduser()
    paths = sorted(root.glob("*_QA.json")) if root.is_dir() else [root]
    if not paths:
        raise ConfigError(f"benchmark.root: {root} holds no *_QA.json: name the folder JsonData, or one of its files")
    items: list[Item] = []
    faults: list[Fault] = []
    content: dict[str, bytes] = {}
    taken: collections.Counter[str] = collections.Counter()
    for path in paths:
        text = read_text(path, "benchmark.root")
        content[path.name] = text.encode()
        lines = LineFinder(text, keys=False)
        for number, value in enumerate(_listed(path, parse(path, text)), start=1):
            image = value.get("test_image") if isinstance(value, dict) else None
            line = lines.line_of(image) if isinstance(image, str) else None
            try:
                items.append(_item(path, value, taken))
            except BadItem as error:
                where = f"item {number} ({image}): " if isinstance(image, str) else f"item {number}: "
                faults.append(Fault(str(path), line, where + error.args[0], error.args[1]))
    return QuestionSet(items, faults, content)


def _listed(path: Path, content: Any) -> Sequence[Any]:
    if isinstance(content, list) and content:
        kind = foreign.item_kind(content)
        if kind is None or "MANTA" in kind.name:
            return content
        raise ConfigError(f"benchmark.root: {path} holds {kind.name}: name a file of MANTA's or MPDD QA's questions")
    kind = foreign.object_kind(content) if isinstance(content, dict) else None
    if kind is not None and "MMAD" in kind.name:
        raise ConfigError(f"benchmark.root: {path} holds {kind.name}: set benchmark.name to mmad")
    raise ConfigError(f"benchmark.root: {path} is {json_kind(content)}, no list of images with questions")


def _item(path: Path, value: Any, taken: collections.Counter[str]) -> Item:
    if not isinstance(value, dict):
        raise BadItem(f"is {json_kind(value)}", "make it an object with test_image")
    image = clean_path(text_of(value, "test_image"))
    reference = clean_path(text_of(value, "reference_image")) if value.get("reference_image") is not None else ""
    kind = text_of(value, "pair_type")
    if kind not in PAIR_TYPES:
        raise BadItem(f"pair_type {kind!r} is no kind", f"use one of {', '.join(PAIR_TYPES)}")
    conclusion = text_of(value, "conclusion_en") if value.get("conclusion_en") is not None else ""
    asked = tuple(
        _question(number, fields, kind, conclusion) for number, fields in objects_in(value, "question_answer")
    )
    key = f"{image}|{reference}|{kind}"
    taken[key] += 1
    return Item(
        key=key if taken[key] == 1 else f"{key}#{taken[key]}",
        file=str(path),
        image=image,
        references=(reference,) if reference else (),
        category=_category(image),
        asked=asked,
    )


def _question(number: int, fields: Mapping[str, Any], kind: str, conclusion: str) -> Asked:
    where = f"question {number}: "
    answer = fields.get("answer")
    if not isinstance(answer, bool):
        problem = "is missing" if "answer" not in fields else f"is {json_kind(answer)}"
        raise BadItem(f"{where}answer {problem}", "write true or false")
    own = text_of(fields, "conclusion_en", where) if fields.get("conclusion_en") is not None else conclusion
    return Asked(text_of(fields, "question_en", where), kind, {}, "Yes" if answer else "No", own)


def _category(image: str) -> str:
    """The folder above `train` or `test`, else the one of the image."""
    folders = PurePosixPath(image).parts[:-1]
    above = [before for before, split in zip(folders, folders[1:], strict=False) if split in ("train", "test")]
    return (above or list(folders[-1:]) or ["part"])[0].replace("_", " ")
