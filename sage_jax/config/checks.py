"""Checks that the config dataclasses make of their own fields."""

from __future__ import annotations

import difflib
import math
import re
import urllib.parse
from collections.abc import Iterable

from sage_jax.errors import ConfigError


def nearest(name: str, choices: Iterable[object]) -> str:
    """The end of a message about an unknown name: the choice most like it, or all choices where none is."""
    names = [str(choice) for choice in choices]
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else f"; there are {', '.join(names) or 'none'}"


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_above_zero(config: object, *names: str) -> None:
    """Checks that fields are above 0 and finite; NaN is neither."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} = {value}: must be above 0{_and_finite(value)}")


def require_not_negative(config: object, *names: str) -> None:
    """Checks that fields are 0 or more and finite; NaN is neither."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{name} = {value}: must be 0 or more{_and_finite(value)}")


def _and_finite(value: float) -> str:
    return "" if isinstance(value, int) or math.isfinite(value) else ", and finite"


def require_share(config: object, *names: str) -> None:
    """Checks that fields are shares, 0 to 1."""
    for name in names:
        require(0.0 <= getattr(config, name) <= 1.0, f"{name} = {getattr(config, name)}: give a share from 0 to 1")


def require_known(field: str, names: Iterable[str], choices: Iterable[str], kind: str) -> None:
    """Checks that every name that a field gives is among the choices."""
    for name in names:
        if name not in choices:  # the nearest takes a millisecond to find
            raise ConfigError(f"{field}: {name!r} is no {kind}{nearest(name, choices)}")


def require_divides(part: str, size: int, whole: str, total: int) -> None:
    """Checks that a part divides its whole."""
    require(size > 0 and total % size == 0, f"{part} = {size} does not divide {whole} = {total}")


def require_seed(field: str, seed: int) -> None:
    """Checks that a seed is one of 32 bits, as the order of the records takes it."""
    require(0 <= seed < 2**32, f"{field} = {seed}: give a seed from 0 to {2**32 - 1}")


def require_address(field: str, address: str) -> None:
    """Checks that a field is "" or an address to which a path can be added; no message quotes a password in it."""
    require("@" not in address, f"{field} has a name or password in it: name a variable that holds the key instead")
    try:
        parts = urllib.parse.urlsplit(address)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    require(
        not address or (whole and "?" not in address and "#" not in address),
        f"{field} = {address!r}: give an address such as http://localhost:8000/v1, without '?' and '#'",
    )


def require_key_variable(field: str, name: str) -> None:
    """Checks that a field is "" or may be the name of an environment variable; no message quotes it."""
    require(
        not name or re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) is not None,
        f"{field}: give the name of an environment variable, in capitals, such as OPENAI_API_KEY; never the key",
    )
