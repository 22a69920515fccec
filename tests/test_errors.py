"""One base class for all that a user can mend."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import sage_jax
from sage_jax.errors import ConfigError, UserError, plain

NO_FAULT_OF_THE_USER = {
    "sage_jax.sharding.ShardingError",
    "sage_jax.process.signals.Interrupted",
    "sage_jax.data.sources.items.BadItem",
    "sage_jax.endpoint.asking.RefusedReply",
    "sage_jax.endpoint.chat.BadReply",
    "sage_jax.endpoint.client.NoAnswer",
    "sage_jax.endpoint.client.Stopped",
    "sage_jax.endpoint.client.Unanswered",
}
"""A parameter that the table of the code leaves out, a stop that was asked for, and what becomes faults or lines."""


def test_every_public_error_of_the_package_is_one_that_a_user_can_mend() -> None:
    """So that a program prints its message, and a caller catches one class."""
    others, mendable = set(), set()
    for module in pkgutil.walk_packages(sage_jax.__path__, "sage_jax."):
        if "remote_code" in module.name or module.name.endswith("__main__"):
            continue
        for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if found.__module__ == module.name and issubclass(found, Exception) and not name.startswith("_"):
                (mendable if issubclass(found, UserError) else others).add(f"{module.name}.{name}")
    assert others == NO_FAULT_OF_THE_USER
    assert len(mendable) > 12 and "sage_jax.data.images.ImageFault" in mendable


def test_a_user_error_is_a_value_error_and_a_config_error_a_user_error() -> None:
    assert issubclass(UserError, ValueError) and issubclass(ConfigError, UserError)
    assert str(ConfigError("data.root = '': give a folder")) == "data.root = '': give a folder"


def test_what_a_message_quotes_can_neither_steer_a_terminal_nor_fill_it() -> None:
    text = "a\x1b[2J b\ud800 c\u2028 d\r e\x9b\n" + "x" * 5000 + "\nüß"
    shown = str(UserError(text))
    assert shown.split("\n")[0] == r"a\x1b[2J b\ud800 c\u2028 d\r e\x9b"
    assert len(shown) < 1300 and "[... 4000 characters ...]" in shown and shown.endswith("\nüß")
    shown.encode("utf-8")
    assert plain("plain: 'text' (ok)") == "plain: 'text' (ok)"
