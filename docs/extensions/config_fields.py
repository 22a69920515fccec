"""The reference of config fields: a list for each section, read from the dataclasses and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from sage_jax.config import TRAINING_STAGES, Config, TrainConfig, field_meanings

MARKER = "<!-- config fields -->"
"""Line of `reference/config.md` that the lists take the place of."""

STAGE = "<stage>"
"""Path of the sections that the training stages share."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Has the lists written into the page with the marker; Sphinx calls it."""
    app.connect("source-read", _fill_marker)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill_marker(app: Sphinx, docname: str, source: list[str]) -> None:
    if MARKER in source[0]:
        source[0] = source[0].replace(MARKER, "\n".join(reference()))


def reference() -> Iterator[str]:
    """Lines of Markdown: one list for each section of the config, the training stages in one."""
    yield from _section("", Config)
    yield from _stage_differences()


def _section(path: str, config_class: Any, shared: Any = None) -> Iterator[str]:
    """The fields of a section; those that it shares with another class stand there."""
    hints = typing.get_type_hints(config_class)
    meanings = field_meanings(config_class)
    known = {field.name for field in dataclasses.fields(shared)} if shared else set[str]()
    fields = [field for field in dataclasses.fields(config_class) if field.name not in known]
    summary = (inspect.getdoc(config_class) or "").split("\n\nAttributes:")[0]
    yield from ("", f"## `{path}`" if path else "## Run", "", summary, "")
    for field in fields:
        if not dataclasses.is_dataclass(hints[field.name]):
            yield from (f"`{_below(path, field.name)}`", f":   {meanings.get(field.name, '')}")
            yield from ("", f"    {_values(hints[field.name])}; default `{field.default!r}`", "")
    sections = {field.name: hints[field.name] for field in fields if dataclasses.is_dataclass(hints[field.name])}
    stages = [name for name in sections if name in TRAINING_STAGES]
    for name, inner in sections.items():
        if name not in stages:
            yield from _section(_below(path, name), inner)
        elif name == stages[0]:
            yield from _section(STAGE, inner)
        elif inner is not TrainConfig:
            yield from _section(_below(path, name), inner, TrainConfig)


def _stage_differences() -> Iterator[str]:
    """The defaults by which the training stages differ from each other."""
    yield from ("", "## Defaults of each training stage", "", "| field | default |", "|---|---|")
    for name in TRAINING_STAGES:
        for path, value in _differences("", Config().training(name), TrainConfig()):
            yield f"| `{name}.{path}` | `{value!r}` |"


def _differences(path: str, config: Any, other: Any) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(other):  # a stage may have more fields, which stand in its own list
        here, there = getattr(config, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(here):
            yield from _differences(_below(path, field.name), here, there)
        elif here != there:
            yield _below(path, field.name), here


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _values(hint: Any) -> str:
    """What a field takes: its choices, or its type."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {typing.get_args(hint)[0].__name__}"
    return hint.__name__
