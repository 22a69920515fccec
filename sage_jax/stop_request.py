"""A polite stop: SIGINT and SIGTERM end a loop after the running step, on all processes at the same one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class StopRequest:
    """Notes SIGINT and SIGTERM while it is entered; a second signal raises KeyboardInterrupt at once.

    The handlers of before are back on leaving. Outside the main thread, which alone may set handlers, none are set.

    Args:
      say: Takes the line that tells the user what happens now.
      mesh: Devices of all processes.
      after: What is finished before the stop, for that line.
    """

    def __init__(self, say: Callable[[str], None], mesh: Mesh, *, after: str = "this step, with a checkpoint") -> None:
        self._say, self._after = say, after
        self._requested = False
        self._handlers: dict[signal.Signals, Any] = {}
        self._flags = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._num_local = len(mesh.local_devices)
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def agreed(self) -> bool:
        """Whether to stop now; every process calls it once a step and gets the same answer.

        With several processes the answer is one step old: it is combined on the devices, where no process waits for it.
        """
        if jax.process_count() == 1:
            return self._requested
        local = np.full(self._num_local, self._requested)
        newest = self._any(jax.make_array_from_process_local_data(self._flags, local))
        previous, self._pending = self._pending, newest
        return previous is not None and bool(previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        self._say(f"{signal.Signals(number).name}: stopping after {self._after}; again to abort")
