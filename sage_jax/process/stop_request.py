"""A polite stop: SIGINT and SIGTERM end a loop after the running step, on all processes at the same one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.process import signals
from sage_jax.process.signals import Interrupted, StopSignals


class StopRequest:
    """Whether SIGINT or SIGTERM asks a loop to stop; a second signal raises KeyboardInterrupt at once.

    A signal that came before, since the program began, counts (`signals.StopSignals`). Without a program around it, the
    handlers are set while it is entered.

    Args:
      say: Takes the line that tells the user what happens now.
      mesh: Devices of all processes.
      after: What is finished before the stop, for that line.
    """

    def __init__(self, say: Callable[[str], None], mesh: Mesh, *, after: str = "this step, with a checkpoint") -> None:
        self._say, self._after = say, after
        self._own = StopSignals()
        self._signals = self._own
        self._announced: tuple[Callable[[str], None], str] | None = None
        self._flags = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._num_local = len(mesh.local_devices)
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def __enter__(self) -> StopRequest:
        self._signals = self._own.__enter__()
        self._announced = self._signals.announce(self._say, self._after)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._announced is not None:
            self._signals.announce(*self._announced)
        self._own.__exit__(kind, error, trace)

    def agreed(self) -> bool:
        """Whether to stop now; every process calls it once a step and gets the same answer.

        With several processes the answer is one step old: it is combined on the devices, where no process waits for it.
        """
        requested = self._signals.requested
        if jax.process_count() == 1:
            return requested
        local = np.full(self._num_local, requested)
        newest = self._any(jax.make_array_from_process_local_data(self._flags, local))
        previous, self._pending = self._pending, newest
        return previous is not None and bool(previous)


@dataclasses.dataclass(frozen=True)
class Watch:
    """Progress that ends where a signal asks for it, on all processes after the same unit.

    Attributes:
      doing: What is under way and what of it stays, for the message.
      show: Makes the display of a number of units, as `RunLog.progress`.
      stop: Entered.
    """

    doing: str
    show: Callable[..., AbstractContextManager[Callable[[int], None]]]
    stop: StopRequest

    @contextlib.contextmanager
    def progress(self, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
        """Gives what is called with the units done, once a unit.

        Raises:
          Interrupted: From that call, where a signal has come.
        """
        with self.show(total, unit=unit) as advance:

            def watched(done: int) -> None:
                advance(done)
                if self.stop.agreed():
                    raise Interrupted(f"stopped while {self.doing}")

            yield watched


def stop_if_asked(message: str) -> None:
    """Ends the work where a signal has asked for it; every process comes here, and all end or none.

    Raises:
      Interrupted: A signal has come to one of the processes.
    """
    asked = signals.requested()
    if jax.process_count() > 1:
        asked = bool(np.any(multihost_utils.process_allgather(np.asarray([asked]))))
    if asked:
        raise Interrupted(message)
