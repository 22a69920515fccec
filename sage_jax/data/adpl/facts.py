"""The vocabulary of objects and defects, and the fact sentences written from it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.config.checks import nearest
from sage_jax.errors import UserError

MAX_TYPICAL_NAMED: Final = 3
_GENERIC_OBJECT: Final = "part"


class VocabularyError(UserError):
    """A vocabulary file that cannot be used; the message names the file, the key and the way out."""


@dataclasses.dataclass(frozen=True)
class Risk:
    """What a defect may lead to: `fails` completes "it may ...", `works` completes "it will ..."."""

    name: str
    fails: str
    works: str


@dataclasses.dataclass(frozen=True)
class DefectWords:
    """Words of one defect type.

    Attributes:
      name: Key in the vocabulary file, or the type itself where the file does not list it.
      term: Noun, singular.
      synonyms: Other names of the same, folder names included.
      risk: What it may lead to.
      consequences: Verb phrases that complete "A <term> ...".
      appearance: Noun phrase; "" where unknown.
      mass: The noun takes no article and no plural.
      generic: The name says no more than that something is wrong.
    """

    name: str
    term: str
    synonyms: tuple[str, ...]
    risk: Risk
    consequences: tuple[str, ...]
    appearance: str
    mass: bool
    generic: bool

    @property
    def noun(self) -> str:
        """The term with its article: "a scratch", "an open", "contamination"."""
        return self.term if self.mass else with_article(self.term)

    @property
    def plural(self) -> str:
        """The term as it follows "free of": "scratches", "contamination"."""
        return self.term if self.mass else plural_of(self.term)


@dataclasses.dataclass(frozen=True)
class ObjectWords:
    """Words of one product category: its name, what it is made of, what it does, and the defects it tends to show."""

    name: str
    material: str
    function: str
    typical: tuple[DefectWords, ...]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Objects, defects and risks of a vocabulary file; names that it does not list fall back on generic words."""

    objects: Mapping[str, ObjectWords]
    defects: Mapping[str, DefectWords]
    default: ObjectWords

    @functools.cached_property
    def defect_terms(self) -> tuple[str, ...]:
        """Terms of the listed defect types, generic ones ("defect") left out, in the file's order."""
        return tuple(words.term for words in self.defects.values() if not words.generic)

    @functools.cached_property
    def synonyms(self) -> dict[str, str]:
        """Other names of listed defect types -> their term, generic ones left out."""
        return {name: words.term for words in self.defects.values() if not words.generic for name in words.synonyms}

    @functools.cached_property
    def _by_name(self) -> dict[str, DefectWords]:
        found = {}
        for words in self.defects.values():
            for name in (words.name, words.term, *words.synonyms):
                found.setdefault(_normal(name), words)
        return found

    def object_of(self, category: str) -> ObjectWords:
        """Words of a category; one that is not listed keeps its own name and takes the rest from `[default]`."""
        name = _normal(category)
        return self.objects.get(name) or dataclasses.replace(self.default, name=name or _GENERIC_OBJECT)

    def defect_of(self, defect_type: str) -> DefectWords:
        """Words of a defect type, found by key, term or synonym; one that is not listed is its own term."""
        name = _normal(defect_type)
        found = self._by_name.get(name)
        if found is not None:
            return found
        generic = next(iter(words for words in self.defects.values() if words.generic), self.default.typical[0])
        if not name:
            return generic
        return dataclasses.replace(generic, name=name, term=name, synonyms=(), mass=False, generic=False)

    def terms_with(self, defect_types: Iterable[str]) -> tuple[str, ...]:
        """`defect_terms`, then the terms of those given types that the file does not list."""
        extra = (words.term for words in map(self.defect_of, defect_types) if not words.generic)
        return tuple(dict.fromkeys((*self.defect_terms, *extra)))

    def facts_for(self, category: str) -> tuple[str, ...]:
        """Sentences on what the object is, which anomalies its kind tends to show and what they would do.

        Example: "washer" -> ("A washer is made of steel and spreads the load of a bolt.", "It may show a scratch, a
        crack or a dent.", "A scratch makes the surface look worn.", "A crack can grow until the part fails.")

        Returns:
          3 or 4 sentences, each of at most 14 words with the built-in vocabulary.
        """
        words = self.object_of(category)
        named = [defect.noun for defect in words.typical[:MAX_TYPICAL_NAMED]]
        listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"
        effects = [sentence(f"{defect.noun} {defect.consequences[0]}") for defect in words.typical[:2]]
        article_and_name = with_article(words.name)
        return (
            sentence(f"{article_and_name} is made of {words.material} and {words.function}"),
            f"It may show {listed}.",
            *effects,
        )


def load_vocabulary(path: str = "") -> Vocabulary:
    """Reads a vocabulary file; "" reads the built-in one.

    Raises:
      VocabularyError: The file is missing, is no TOML, or a key is missing, unknown or of the wrong type.
    """
    if not path:
        text = importlib.resources.files("sage_jax.data.adpl").joinpath("vocabulary.toml").read_text(encoding="utf-8")
        return _parse(text, "the built-in vocabulary.toml")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise VocabularyError(
            f'{path}: cannot be read ({error.strerror}); set data.vocabulary to a TOML file, or to ""'
        ) from None
    except UnicodeDecodeError:
        raise VocabularyError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    return _parse(text, path)


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def with_article(noun: str) -> str:
    """The noun with "a" or "an", by its first letter."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def plural_of(noun: str) -> str:
    """The regular English plural."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _normal(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def _parse(text: str, file: str) -> Vocabulary:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise VocabularyError(f"{file}: is no valid TOML: {error}") from None
    top = _Table(file, "", content, {"risks": dict, "defects": dict, "objects": dict, "default": dict})
    risks = {}
    for name in top.table("risks"):
        table = top.inner("risks", name, {"fails": str, "works": str})
        risks[name] = Risk(name, table.string("fails"), table.string("works"))
    defects = {name: _defect(name, top, risks) for name in top.table("defects")}
    objects = {}
    for name in top.table("objects"):
        objects[_normal(name)] = _object(_normal(name), top.inner("objects", name, _OBJECT_KEYS), defects)
    default = _object(_GENERIC_OBJECT, _Table(file, "default", top.table("default"), _OBJECT_KEYS), defects)
    return Vocabulary(objects, defects, default)


_OBJECT_KEYS: Final[Mapping[str, type]] = {"material": str, "function": str, "typical": list}
_DEFECT_KEYS: Final[Mapping[str, type]] = {
    "term": str,
    "synonyms": list,
    "risk": str,
    "consequences": list,
    "appearance": str,
    "mass": bool,
    "generic": bool,
}


def _defect(name: str, top: _Table, risks: Mapping[str, Risk]) -> DefectWords:
    table = top.inner("defects", name, _DEFECT_KEYS)
    return DefectWords(
        name=name,
        term=table.string("term"),
        synonyms=table.strings("synonyms") if "synonyms" in table.values else (),
        risk=risks[table.choice("risk", table.string("risk"), risks)],
        consequences=table.strings("consequences"),
        appearance=table.string("appearance"),
        mass=table.values.get("mass", False),
        generic=table.values.get("generic", False),
    )


def _object(name: str, table: _Table, defects: Mapping[str, DefectWords]) -> ObjectWords:
    typical = tuple(defects[table.choice("typical", item, defects)] for item in table.strings("typical"))
    return ObjectWords(name, table.string("material"), table.string("function"), typical)


@dataclasses.dataclass(frozen=True)
class _Table:
    """One TOML table with the types its keys may have; every fault names file, key and cure."""

    file: str
    key: str
    values: Mapping[str, Any]
    types: Mapping[str, type]

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in self.types:
                raise VocabularyError(f"{self._where(name)}: no such key{nearest(name, self.types)}")
            if type(value) is not self.types[name]:
                raise VocabularyError(f"{self._where(name)}: expected {_WORD_OF[self.types[name]]}, got {value!r}")

    def _where(self, name: str) -> str:
        return f"{self.file}: {self.key}{'.' if self.key else ''}{name}"

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise VocabularyError(f"{self._where(name)}: is missing; give {_WORD_OF[self.types[name]]}")
        return self.values[name]

    def table(self, name: str) -> Mapping[str, Any]:
        return self._value(name)

    def inner(self, name: str, key: str, types: Mapping[str, type]) -> _Table:
        values = self._value(name)[key]
        if not isinstance(values, dict):
            raise VocabularyError(f"{self._where(name)}.{key}: expected a table, got {values!r}")
        return _Table(self.file, f"{name}.{key}", values, types)

    def string(self, name: str) -> str:
        value = self._value(name)
        if not value.strip():
            raise VocabularyError(f"{self._where(name)}: is empty; give a text")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        values = self._value(name)
        if not values or not all(isinstance(value, str) and value.strip() for value in values):
            raise VocabularyError(f"{self._where(name)} = {values!r}: give a list of one or more texts")
        return tuple(values)

    def choice(self, name: str, value: str, choices: Mapping[str, object]) -> str:
        if value not in choices:
            raise VocabularyError(
                f"{self._where(name)}: {value!r} is not defined in this file{nearest(value, choices)}"
            )
        return value


_WORD_OF: Final[Mapping[type, str]] = {str: "a text", list: "a list of texts", bool: "true or false", dict: "a table"}
