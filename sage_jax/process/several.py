"""Several processes that work as one: how they find each other, agree, and end when one of them is lost."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils

from sage_jax.errors import ConfigError, UserError

SECONDS_UNTIL_LOST: Final = 30
"""Seconds without a sign of life after which a process counts as lost, and the others end."""
_LOST: Final = re.compile(r"Gloo|NCCL|[Cc]oordination|heartbeat|Connection (closed|reset)|UNAVAILABLE|[Bb]arrier")


class LostProcessError(UserError):
    """One of several processes is gone, and the others cannot go on without it."""


def join_processes() -> None:
    """Joins the processes of this work, which the environment names (SLURM, Kubernetes, TPU).

    Raises:
      ConfigError: They do not find each other.
    """
    seconds = SECONDS_UNTIL_LOST
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"SAGE_JAX_DISTRIBUTED=1, but the processes do not find each other: {error}") from None


def leave_if_several() -> None:
    """Ends this process at once, with status 2, where others wait for it: they learn of it, and end too.

    An ordinary end would wait for all of them first.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


def as_lost_process(error: BaseException) -> LostProcessError | None:
    """The message for an exception that comes of a process that is gone; None of any other."""
    if not jax.distributed.is_initialized() or not _LOST.search(str(error)):
        return None
    why = str(error).splitlines()[0][:200]
    return LostProcessError(
        f"process {jax.process_index()} of {jax.process_count()}: another process has ended or cannot be reached "
        f"({why}): its own output says why. Finished work and checkpoints stay, and the same command goes on."
    )


def gather_json(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([text.size])).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
