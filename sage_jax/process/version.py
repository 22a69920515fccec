"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Version of sage_jax; `0+source` in a checkout that is not installed."""
    try:
        return version("sage-jax")
    except PackageNotFoundError:
        return "0+source"
