"""Conversion between the config dataclasses and the ConfigDict that the command line overrides."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sage_jax.config.checks import nearest
from sage_jax.config.run import Config
from sage_jax.errors import ConfigError

if TYPE_CHECKING:  # only configs and the command line need it: models read their dataclasses without
    import ml_collections


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """The config as a locked ConfigDict, for command-line overrides."""
    import ml_collections

    return ml_collections.ConfigDict(dataclasses.asdict(config)).lock()


def from_config_dict(values: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Rebuilds the dataclasses, so that their checks see what will run.

    Raises:
      ConfigError: A field is unknown, of the wrong type, or impossible; the message names it and the nearest right one.
    """
    return _build(Config, values if isinstance(values, Mapping) else values.to_dict(), "config")


def _build(cls: Any, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(f"{path}.{unknown[0]}: no such field{nearest(unknown[0], names)}")
    built = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {value!r}: expected its fields, {path}.<field>")
        return _build(hint, value, path)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(
                f"{path} = {value!r} is none of {', '.join(map(str, choices))}{nearest(str(value), choices)}"
            )
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path} = {value!r}: expected a tuple, such as ({value!r},)")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{path} = {value!r}: expected {hint.__name__}, got {type(value).__name__}")
    return value
