"""How an array of ours stands in a checkpoint: reversible arrangements of (out, in) arrays in one or more of theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Arrange(Protocol):
    """A reversible arrangement of one array of ours in one or more of theirs.

    Attributes:
      rows_only: Axes after the first are left alone, so that a slice along them can be arranged by itself.
    """

    rows_only: bool

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Our array, a view of theirs where that is possible."""
        ...

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        """Their arrays; the inverse of `ours`."""
        ...

    def shapes(self, whole: Shape) -> list[Shape]:
        """Shapes of their arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class AsStored:
    """The same array."""

    rows_only = True

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return parts[0]

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        return [whole]

    def shapes(self, whole: Shape) -> list[Shape]:
        return [whole]


@dataclasses.dataclass(frozen=True)
class LeadingOne:
    """Theirs has one more axis in front, of size 1."""

    rows_only = False

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return parts[0][0]

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        return [whole[None]]

    def shapes(self, whole: Shape) -> list[Shape]:
        return [(1, *whole)]


@dataclasses.dataclass(frozen=True)
class PatchKernel:
    """The patch embedding: theirs is a convolution (out, colour, row, column), ours reads row, column, colour."""

    patch_px: int
    rows_only = False

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return parts[0].transpose(0, 2, 3, 1).reshape(len(parts[0]), -1)

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        return [whole.reshape(len(whole), self.patch_px, self.patch_px, 3).transpose(0, 3, 1, 2)]

    def shapes(self, whole: Shape) -> list[Shape]:
        return [(whole[0], 3, self.patch_px, self.patch_px)]


@dataclasses.dataclass(frozen=True)
class SeparateQkv:
    """Theirs are queries, keys and values of all heads apart; ours groups each key/value head with its query heads."""

    num_heads: int
    num_kv_heads: int
    rows_only = True

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        width, rest = len(parts[1]) // self.num_kv_heads, parts[1].shape[1:]
        grouped = [part.reshape(self.num_kv_heads, -1, width, *rest) for part in parts]
        return np.concatenate(grouped, axis=1).reshape(-1, *rest)

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        slots, rest = self.num_heads // self.num_kv_heads + 2, whole.shape[1:]
        grouped = whole.reshape(self.num_kv_heads, slots, -1, *rest)
        return [part.reshape(-1, *rest) for part in (grouped[:, :-2], grouped[:, -2], grouped[:, -1])]

    def shapes(self, whole: Shape) -> list[Shape]:
        width = whole[0] // (self.num_heads + 2 * self.num_kv_heads)
        return [(heads * width, *whole[1:]) for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]


@dataclasses.dataclass(frozen=True)
class StackedQkv:
    """Theirs is one array: all heads' queries, then all keys, then all values (InternViT)."""

    num_heads: int
    rows_only = True

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return self._swapped(parts[0], 3, self.num_heads)

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        return [self._swapped(whole, self.num_heads, 3)]

    def shapes(self, whole: Shape) -> list[Shape]:
        return [whole]

    @staticmethod
    def _swapped(x: np.ndarray, outer: int, inner: int) -> np.ndarray:
        split_up = x.reshape(outer, inner, -1, *x.shape[1:])
        return split_up.swapaxes(0, 1).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Twice:
    """Theirs are two copies."""

    rows_only = True

    def ours(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return parts[0]

    def theirs(self, whole: np.ndarray) -> list[np.ndarray]:
        return [whole, whole]

    def shapes(self, whole: Shape) -> list[Shape]:
        return [whole, whole]
