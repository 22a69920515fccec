"""Options of commands: a field for each of the config's, taken only where they are given."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from sage_jax.command_options import given_fields, named, options_of, with_options
from sage_jax.config import Config, ConfigError


def test_options_have_the_fields_of_the_sections_that_are_named() -> None:
    options = options_of(Config, only=("run_dir", "serve"))
    assert [field.name for field in dataclasses.fields(options)] == ["run_dir", "serve"]
    assert given_fields(options()) == {} == given_fields(None)


def test_what_is_given_replaces_fields_and_leaves_the_others() -> None:
    options = options_of(Config, only=("run_dir", "serve"))
    serve = next(iter(typing.get_args(typing.get_type_hints(options)["serve"])))
    given = options(run_dir="runs/line3", serve=serve(port=9000))
    config = with_options(Config(), given, inspect={"threshold": 0.7})
    assert (config.run_dir, config.serve.port, config.inspect.threshold) == ("runs/line3", 9000, 0.7)
    assert config.serve.host == Config().serve.host and config.inspect.references == Config().inspect.references
    with pytest.raises(ConfigError, match="port"):
        with_options(Config(), None, serve={"port": -1})


def test_what_is_none_is_not_given() -> None:
    assert named(one=None, other="", third=0) == {"other": "", "third": 0}
