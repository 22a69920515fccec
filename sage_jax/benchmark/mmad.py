"""MMAD's questions: mmad.json, keyed by image, and domain_knowledge.json (github.com/jam-cc/MMAD)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sage_jax.benchmark.items import Asked, Item
from sage_jax.benchmark.question_json import (
    LineFinder,
    QuestionSet,
    objects_in,
    parse,
    read_text,
)
from sage_jax.config import BenchmarkConfig, nearest
from sage_jax.data.records import Fault
from sage_jax.data.sources import foreign
from sage_jax.data.sources.items import BadItem, json_kind, plain_text, text_of
from sage_jax.data.sources.named_images import clean_path
from sage_jax.errors import ConfigError
from sage_jax.metrics.letters import LETTERS
from sage_jax.metrics.mmad import TYPES

_KNOWN_AS: Final = {"DS-MVTec": ("DS-MVTec", "MVTec", "MVTec-AD"), "MVTec-AD": ("MVTec-AD", "MVTec", "DS-MVTec")}
"""Names that domain_knowledge.json has a data set under, beside its own."""


def read_mmad(config: BenchmarkConfig) -> QuestionSet:
    """The items of an mmad.json, each with the references that `shots` asks for.

    The key of an item is the path of its image. Options that are lettered A, B, ... in another order are lettered anew
    in the order in which they stand, as the official scripts do. Images without a question are left out.

    Raises:
      ConfigError: A file cannot be read, or is none of MMAD's.
    """
    path = Path(config.root).expanduser()
    text = read_text(path, "benchmark.root")
    content = parse(path, text)
    if not isinstance(content, dict) or not content:
        raise _no_mmad(path, content)
    if not any(isinstance(value, dict) and "conversation" in value for value in content.values()):
        raise _no_mmad(path, content)
    knowledge, known = _knowledge(config)
    items: list[Item] = []
    faults: list[Fault] = []
    silent: list[str] = []
    lines = LineFinder(text, keys=True)
    for key, value in content.items():
        line = lines.line_of(key)
        if isinstance(value, dict) and value.get("conversation") == []:
            silent.append(key)
            continue
        try:
            items.append(_item(path, key, value, config, knowledge))
        except BadItem as error:
            faults.append(Fault(str(path), line, f"{key}: {error.args[0]}", error.args[1]))
    return QuestionSet(items, faults, {path.name: text.encode(), **known}, tuple(_notes(items, silent, config)))


def _no_mmad(path: Path, content: Any) -> ConfigError:
    if isinstance(content, list):
        kind = foreign.item_kind(content)
        cure = "set benchmark.name to manta" if kind and "MANTA" in kind.name else "name mmad.json"
        return ConfigError(f"benchmark.root: {path} is {json_kind(content)}, and mmad.json is keyed by image: {cure}")
    return ConfigError(f"benchmark.root: {path} holds no image with a conversation: name mmad.json")


def _item(
    path: Path, key: str, value: Any, config: BenchmarkConfig, knowledge: Mapping[tuple[str, str], tuple[str, ...]]
) -> Item:
    if not isinstance(value, dict):
        raise BadItem(f"is {json_kind(value)}", "make it an object with conversation")
    image = clean_path(plain_text(key, "its key"))
    dataset, *below = PurePosixPath(image).parts
    if len(below) < 2:
        raise BadItem("is no <data set>/<object>/... path", "give the path as MMAD has it")
    name = f"{config.templates}_templates"
    return Item(
        key=key,
        file=str(path),
        image=image,
        references=_templates(value, name, max(config.shots)),
        category=below[0].replace("_", " "),
        asked=tuple(_question(number, asked) for number, asked in objects_in(value, "conversation")),
        knowledge=next(
            (knowledge[each, below[0]] for each in _KNOWN_AS.get(dataset, (dataset,)) if (each, below[0]) in knowledge),
            (),
        ),
    )


def _templates(value: Mapping[str, Any], name: str, wanted: int) -> tuple[str, ...]:
    """The first references, as many as are shown at most."""
    if not wanted:
        return ()
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) and each.strip() for each in found):
        problem = "is missing" if name not in value else "is no list of paths"
        raise BadItem(f"{name} {problem}", "list good images, or set benchmark.shots to (0,)")
    if len(found) < wanted:
        raise BadItem(
            f"{name} lists {len(found)} images, and benchmark.shots asks for {wanted}",
            "list more, or lower benchmark.shots",
        )
    return tuple(clean_path(plain_text(each, name)) for each in found[:wanted])


def _question(number: int, fields: Mapping[str, Any]) -> Asked:
    where = f"question {number}: "
    kind = text_of(fields, "type", where)
    if kind not in TYPES:
        raise BadItem(f"{where}type {kind!r} is none of MMAD's", nearest(kind, TYPES).removeprefix("; "))
    options = fields.get("Options")
    if not isinstance(options, dict) or not options:
        problem = "is missing" if "Options" not in fields else f"is {json_kind(options)}"
        raise BadItem(f"{where}Options {problem}", 'give it an object such as {"A": "Yes.", "B": "No."}')
    wanted = list(LETTERS[: len(options)])
    if sorted(options) != wanted:
        raise BadItem(f"{where}Options has the keys {', '.join(options)[:60]}", f"letter them {', '.join(wanted)}")
    texts = [text_of(options, letter, f"{where}option ") for letter in options]
    truth = text_of(fields, "Answer", where)
    if truth not in options:
        raise BadItem(f"{where}Answer is {truth[:40]!r}, no letter of Options", f"give one of {', '.join(options)}")
    right = wanted[list(options).index(truth)]
    return Asked(text_of(fields, "Question", where), kind, dict(zip(wanted, texts, strict=True)), right)


def _knowledge(config: BenchmarkConfig) -> tuple[dict[tuple[str, str], tuple[str, ...]], dict[str, bytes]]:
    """Texts by data set and object, and the file's content.

    Raises:
      ConfigError: The file cannot be read, or is not of this form.
    """
    if not config.knowledge:
        return {}, {}
    path = Path(config.knowledge).expanduser()
    text = read_text(path, "benchmark.knowledge")
    content = parse(path, text)
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for dataset, objects in content.items() if isinstance(content, dict) else ():
        for name, texts in objects.items() if isinstance(objects, dict) else ():
            whole = isinstance(texts, dict) and all(isinstance(each, str) and each.strip() for each in texts.values())
            if not whole:
                where = f"{path}:{LineFinder(text, keys=True).line_of(name)}"
                raise ConfigError(f"{where}: {dataset}, {name}: is no object of texts (make it {{folder: text}})")
            try:
                found[dataset, name] = tuple(plain_text(each, f"{dataset}, {name}") for each in texts.values())
            except BadItem as error:
                raise ConfigError(f"{path}: {error.args[0]} ({error.args[1]})") from None
    if not found:
        raise ConfigError(f"benchmark.knowledge: {path} holds no {{data set: {{object: {{folder: text}}}}}}")
    return found, {path.name: text.encode()}


def _notes(items: list[Item], silent: list[str], config: BenchmarkConfig) -> list[str]:
    notes = []
    if silent:
        notes.append(f"{len(silent)} images have no question, such as {silent[0]}")
    if own := [item.key for item in items if item.image in item.references]:
        notes.append(f"{len(own)} images are their own template, such as {own[0]}: their answers tell little")
    lacking = [item.key for item in items if config.knowledge and not item.knowledge]
    if lacking:
        notes.append(f"{config.knowledge} says nothing of the objects of {len(lacking)} images, such as {lacking[0]}")
    return notes
