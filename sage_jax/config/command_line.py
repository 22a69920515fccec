"""The command line: one config file, and overrides of its fields."""

from __future__ import annotations

import operator
import re
import runpy
import traceback
from collections.abc import Sequence
from typing import Final

import ml_collections
from absl import flags
from ml_collections import config_flags

from sage_jax.config.convert import from_config_dict
from sage_jax.config.fields import check_known
from sage_jax.config.run import Config
from sage_jax.config.shipped import find_config
from sage_jax.errors import ConfigError

USAGE: Final = """python -m sage_jax.main --config FILE [--config.field=value ...]

FILE is Python with a function get_config(), or the name of a shipped config, such as quickstart.
Any field can be overridden by its path:
  --config.seed=1  --config.stages=evaluate,inspect  --config.sfe.steps=400  --config.data.held_out="('bottle',)"
The fields are described in the dataclasses of sage_jax/config/; `sage-jax train --help` lists them."""

_OVERRIDE: Final = re.compile(r"--?(?:no)?config\.([^=]*)")


def read_config(arguments: Sequence[str]) -> Config:
    """The config of a command line, overrides applied, everything checked.

    Raises:
      ConfigError: There is no config file or it fails, or a field is unknown, of the wrong type or impossible.
    """
    file, overrides = _split(arguments)
    values = _load(file)
    for argument in overrides:
        match = _OVERRIDE.match(argument)
        if match:
            check_known(match[1])
    _override(values, overrides)
    return from_config_dict(values)


def _split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The config file, and the other arguments."""
    rest = list(arguments)
    for index, argument in enumerate(rest):
        name, equals, file = argument.partition("=")
        if name in ("--config", "-config"):
            del rest[index]
            if not equals:
                file = rest.pop(index) if index < len(rest) else ""
            if file:
                return file, rest
            break
    raise ConfigError("there is no config file: give one, such as --config quickstart")


def load_config(name: str) -> Config:
    """The config of a file, or of a shipped config by its name; for config files that build on another.

    Raises:
      ConfigError: There is no such file or config, or it fails.
    """
    return from_config_dict(_load(name))


def _load(name: str) -> ml_collections.ConfigDict:
    """The values that the `get_config` of a config file gives."""
    file = str(find_config(name))
    try:
        scope = runpy.run_path(file)
        values = scope["get_config"]() if "get_config" in scope else None
    except Exception as error:  # a config file is a program of the user's: whatever it raises is theirs to mend
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{file}:{line or '?'}: {kind}{error}") from error
    if not isinstance(values, ml_collections.ConfigDict):
        raise ConfigError(f"{file}: needs a function get_config() that returns to_config_dict(Config(...))")
    return values


def _override(values: ml_collections.ConfigDict, arguments: Sequence[str]) -> None:
    """Sets the fields that the arguments override."""
    argv = ["main", *arguments]
    parser = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", values, flag_values=parser, sys_argv=argv)
        unexpected = parser(argv)[1:]
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --config\.([^=]*)=", str(error))
        if match is None:
            raise ConfigError(str(error).replace("\n", " ")) from None
        now = operator.attrgetter(match[1])(values)
        kind = "a section, set its fields" if isinstance(now, ml_collections.ConfigDict) else f"such as {now!r}"
        given = next(argument for argument in arguments if match[1] in argument)
        raise ConfigError(f"{given}: wrong type; expected {type(now).__name__}, {kind}") from None
    except (KeyError, AttributeError) as error:  # a section that an argument before has emptied
        raise ConfigError(f"{_emptied(arguments)}: empties a section that another argument sets a field of") from error
    except flags.Error as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"{reason}: options are --config FILE and --config.field=value") from None
    if unexpected:
        raise ConfigError(f"unexpected argument {unexpected[0]!r}: options are --config FILE and --config.field=value")


def _emptied(arguments: Sequence[str]) -> str:
    """The argument that gives a whole section."""
    return next(
        (argument for argument in arguments if argument.partition("=")[2].lstrip().startswith("{")), arguments[0]
    )
