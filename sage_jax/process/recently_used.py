"""A bounded memory of values by key, for threads."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


class RecentlyUsed:
    """Values by key, the least recently used dropped when they take more than `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._items: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[RecentlyUsed], tuple[int]]:
        return RecentlyUsed, (self._capacity,)  # a worker process fills its own

    def find(self, key: Any) -> Any:
        """The value of a key, or None where it is not kept."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def drop(self, key: Any) -> None:
        """Forgets the value of a key, where it is kept."""
        with self._lock:
            if key in self._items:
                self._size -= self._items.pop(key).nbytes

    def get(self, key: Any, make: Callable[[], Item]) -> Item:
        """The value of a key, made where it is not kept."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        made = make()  # outside the lock: threads decode side by side
        with self._lock:
            if key not in self._items:
                self._items[key] = made
                self._size += made.nbytes
            while self._size > self._capacity:
                self._size -= self._items.popitem(last=False)[1].nbytes
        return made
