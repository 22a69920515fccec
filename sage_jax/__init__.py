"""SAGE in JAX: a vision-language model that inspects parts and gives its reasons."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_jax.api import Inspector, calibrate, evaluate, export, load, train
    from sage_jax.config import Config
    from sage_jax.errors import UserError
    from sage_jax.inspection.result import Inspection

    __version__: str

_HOMES = {
    "Config": "sage_jax.config",
    "Inspection": "sage_jax.inspection.result",
    "Inspector": "sage_jax.api",
    "UserError": "sage_jax.errors",
    "evaluate": "sage_jax.api",
    "calibrate": "sage_jax.api",
    "export": "sage_jax.api",
    "load": "sage_jax.api",
    "train": "sage_jax.api",
}
"""Module of each public name; it is imported when the name is first asked for, so that the package imports at once."""

__all__ = [
    "Config",
    "Inspection",
    "Inspector",
    "UserError",
    "__version__",
    "calibrate",
    "evaluate",
    "export",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from sage_jax.process.version import own_version

        found: Any = own_version()
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'sage_jax' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
