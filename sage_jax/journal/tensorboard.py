"""Scalars for TensorBoard: an event file that is complete after every row, written by no thread of its own."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_jax.process.libraries import without_torch

with without_torch():
    from tensorboardX.record_writer import masked_crc32c
    from tensorboardX.summary import scalar

    # Its messages are made when it is imported: a type checker finds none.
    _protocol = importlib.import_module("tensorboardX.proto.event_pb2")


class EventFile:
    """A file of TensorBoard events (TFRecord frames of `tensorflow.Event`), new under a folder.

    A writer with a thread would tell of a full disk there and at the exit of the program, each time with a traceback;
    here it is raised where the row is written.

    Args:
      folder: Made where it is missing.
      first_step: What earlier files of the folder hold from this step on is hidden: it is computed again.

    Raises:
      OSError: It cannot be written; here and in `scalars`.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}"
        self._file = self._path.open("ab", buffering=0)  # a buffer that finds no room would be tried again at the exit
        version = _protocol.Event(wall_time=now, file_version="brain.Event:2")
        start = _protocol.Event(wall_time=now, step=first_step, session_log={"status": "START"})
        self._append(version, start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one event per value."""
        now = time.time()
        rows = (_protocol.Event(wall_time=now, step=step, summary=scalar(name, x)) for name, x in values.items())
        self._append(*rows)

    def close(self) -> None:
        self._file.close()

    def _append(self, *events: Any) -> None:
        data = b"".join(_framed(event.SerializeToString()) for event in events)
        if self._file.write(data) != len(data):  # the system takes less only where the rest finds no room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


def _framed(data: bytes) -> bytes:
    """A TFRecord: length, its checksum, data, their checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))
