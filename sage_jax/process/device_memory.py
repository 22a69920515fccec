"""What the devices of this run say of their memory; those of a CPU say nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from sage_jax.process.several import gather_json


def smallest_limit(devices: Iterable[Any] | None = None) -> int | None:
    """Bytes that this program may take of the device that has fewest, over all processes; None where one does not tell.

    Args:
      devices: Of this process; None = all of them.
    """
    return _smallest(devices, lambda stats: stats["bytes_limit"])


def smallest_free(devices: Iterable[Any] | None = None) -> int | None:
    """Bytes that no array holds of the device that has fewest of them, likewise."""
    return _smallest(devices, lambda stats: stats["bytes_limit"] - stats["bytes_in_use"])


def _smallest(devices: Iterable[Any] | None, of: Any) -> int | None:
    told = []
    for device in jax.local_devices() if devices is None else devices:
        try:
            told.append(int(of(device.memory_stats() or {})))
        except KeyError:
            told.append(None)
    everywhere = [each for process in gather_json(told) for each in process]
    return None if None in everywhere else min(everywhere)
