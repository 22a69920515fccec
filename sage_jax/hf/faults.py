"""The error of a checkpoint that cannot be used: all its faults in one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sage_jax.errors import UserError

_MOST: Final = 40


class WeightsError(UserError):
    """A checkpoint that cannot be read or written; the message names every fault and the way out."""


def listed(folder: Path | str, faults: Sequence[str]) -> WeightsError:
    """The error of some faults; those after the first 40 are counted."""
    shown = [*faults[:_MOST], *([f"and {len(faults) - _MOST} more"] if len(faults) > _MOST else [])]
    number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return WeightsError(f"{folder}: {number}, nothing was loaded:\n  " + "\n  ".join(shown))


def raise_any(folder: Path | str, faults: Sequence[str]) -> None:
    """Raises the error of all faults; returns where there are none."""
    if faults:
        raise listed(folder, faults)
