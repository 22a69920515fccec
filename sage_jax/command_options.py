"""Options of the command `sage-jax`, made of the config's dataclasses with their docstrings."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Group, Parameter

from sage_jax.config import Config, field_meanings, from_config_dict


def options_of(config_class: Any, prefix: str = "", only: Sequence[str] = ()) -> Any:
    """A dataclass with the fields of a config, each None where it is not given, for cyclopts to fill.

    Args:
      prefix: Path of the section, which its options are grouped under.
      only: Fields to take; empty = all.
    """
    hints, meanings = typing.get_type_hints(config_class), field_meanings(config_class)
    made: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(config_class):
        if only and field.name not in only:
            continue
        hint, path = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            made.append((field.name, options_of(hint, f"{path}.") | None, None))
        else:
            group = Group(prefix.rstrip(".") or "Run", sort_key=0 if not prefix else 1)
            about = Parameter(help=meanings.get(field.name, ""), group=group)
            made.append((field.name, Annotated[hint | None, about], None))
    options = dataclasses.make_dataclass(f"{config_class.__name__}Options", made)
    options.__module__ = __name__  # else `types`, whose classes cyclopts takes for scalars
    return options


def given_fields(options: Any) -> dict[str, Any]:
    """The fields that were given, sections as dictionaries."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options) if options is not None else ():
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = given_fields(value)
        elif value is not None:
            found[field.name] = value
    return found


def _merged(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for name, value in given.items():
        merged[name] = _merged(config[name], value) if isinstance(value, Mapping) else value
    return merged


def named(**given: Any) -> dict[str, Any]:
    """The fields that were given, by name."""
    return {name: value for name, value in given.items() if value is not None}


def with_options(config: Config, options: Any, **fields: Any) -> Config:
    """The config with the given options, and sections or fields beside them.

    Raises:
      ConfigError: A field is impossible.
    """
    return from_config_dict(_merged(_merged(dataclasses.asdict(config), given_fields(options)), fields))
