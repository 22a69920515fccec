"""The boards of DeepPCB: lists, annotations, and decoded pairs of tested board and defect-free template.

Every board is a pair of aligned pictures with a box for each defect. A board whose annotation cannot be read in full is
left out whole: a defect that nobody marked would make "normal" crops lie.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool, UInt8
from sage_jax.data.images import ImageFault, decode_rgb, read_inside, resolve_inside
from sage_jax.data.records import Box, Defect, Fault

DEFECT_TYPES: Final = ("open", "short", "mousebite", "spur", "spurious copper", "pin-hole")
LISTS: Final = {"train": "trainval.txt", "test": "test.txt"}
_CACHED_BOARDS: Final = 16
_CHANGED: Final = 96  # grey levels; board images are all but black and white


@dataclasses.dataclass(frozen=True)
class Board:
    """A board of a list: its name, the files of its pair, and its defects, boxes in pixels of the whole board."""

    name: str
    test_path: str
    reference_path: str
    defects: tuple[Defect, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A decoded board: tested picture and template, grey, of one size."""

    test: UInt8[np.ndarray, "H W"]
    reference: UInt8[np.ndarray, "H W"]


def read_boards(root: Path, split: Literal["train", "test"]) -> list[Board | Fault]:
    """The boards of a split's list with their annotations, and what is wrong with the others, in the list's order.

    Raises:
      OSError: The list cannot be read.
    """
    lists = {name: _list_lines(root / path) for name, path in LISTS.items()}
    seen = {fields[0] for _, fields in lists["train"]} if split == "test" else set()
    boards: list[Board | Fault] = []
    for line, fields in lists[split]:
        list_file = str(root / LISTS[split])
        if len(fields) != 2:
            boards.append(Fault(list_file, line, f"has {len(fields)} fields", "write 'image.jpg annotation.txt'"))
        elif fields[0] in seen:
            boards.append(Fault(list_file, line, f"board {fields[0]} stands twice in the lists", "remove one line"))
        else:
            seen.add(fields[0])
            boards.extend(_read_board(root, fields[0], fields[1], list_file, line))
    return boards


def files(root: Path) -> Iterator[str]:
    """Paths, relative to `root`, of every file that the lists lead to, lists included."""
    for list_path in LISTS.values():
        yield list_path
        for _, fields in _list_lines(root / list_path):
            if len(fields) == 2:
                yield from (*_pair_paths(fields[0]), fields[1])


def _list_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields of every line that is not blank."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]


def _pair_paths(image: str) -> tuple[str, str]:
    """Files of the tested board and its template, by the name in the list, which is neither's."""
    stem = image.removesuffix(".jpg")
    return f"{stem}_test.jpg", f"{stem}_temp.jpg"


def _read_board(root: Path, image: str, annotation: str, list_file: str, line: int) -> list[Board | Fault]:
    """The board of one line of a list, or all its faults."""
    test_path, reference_path = _pair_paths(image)
    try:
        resolve_inside(root, test_path)
        resolve_inside(root, reference_path)
        text = read_inside(root, annotation).decode("utf-8", errors="replace")
    except ImageFault as error:
        return [Fault(list_file, line, f"{error.name} {error.problem}", error.cure)]
    defects: list[Defect] = []
    faults: list[Board | Fault] = []
    for number, row in enumerate(text.splitlines(), start=1):
        if not row.strip(" ,\t"):
            continue
        defect = _parse_defect(row)
        if isinstance(defect, str):
            faults.append(Fault(str(root / annotation), number, defect, "write 'x1 y1 x2 y2 type', type 1 to 6"))
        else:
            defects.append(defect)
    return faults or [Board(Path(image).stem, test_path, reference_path, tuple(defects))]


def _parse_defect(row: str) -> Defect | str:
    """The defect of an annotation line, or what is wrong with the line."""
    fields = [field for field in re.split(r"[\s,]+", row.strip()) if field]
    if len(fields) != 5 or not all(re.fullmatch(r"\d{1,6}", field) for field in fields):
        return f"{row.strip()[:60]!r} is not five whole numbers"
    left, top, right, bottom, kind = map(int, fields)
    if left >= right or top >= bottom:
        return f"box {left} {top} {right} {bottom} has no area"
    if not 1 <= kind <= len(DEFECT_TYPES):
        return f"type {kind} does not exist"
    return Defect(DEFECT_TYPES[kind - 1], Box(left, top, right, bottom))


class BoardCache:
    """Decoded boards, the most recently used kept."""

    def __init__(self, root: Path, boards: list[Board]) -> None:
        self.root = root
        self.boards = boards
        self._pairs: collections.OrderedDict[int, Pair | Fault] = collections.OrderedDict()

    def __getitem__(self, index: int) -> Pair | Fault:
        if index in self._pairs:
            self._pairs.move_to_end(index)
        else:
            self._pairs[index] = self._load(self.boards[index])
            if len(self._pairs) > _CACHED_BOARDS:
                self._pairs.popitem(last=False)
        return self._pairs[index]

    def _load(self, board: Board) -> Pair | Fault:
        try:
            test, reference = (_decode_grey(self.root, path) for path in (board.test_path, board.reference_path))
        except ImageFault as error:
            return Fault(str(self.root / error.name), None, error.problem, error.cure)
        if test.shape != reference.shape:
            problem = (
                f"is {test.shape[1]} x {test.shape[0]} px, its template {reference.shape[1]} x {reference.shape[0]}"
            )
            return Fault(str(self.root / board.test_path), None, problem, "give a pair of one size")
        height, width = test.shape
        for defect in board.defects:
            if defect.box.right > width or defect.box.bottom > height:
                problem = f"{defect.box} does not lie in the image of {width} x {height} px"
                return Fault(str(self.root / board.test_path), None, problem, "correct the box in its annotation")
        return Pair(test, reference)


def _decode_grey(root: Path, path: str) -> UInt8[np.ndarray, "H W"]:
    """Luminance of a board's picture: some boards are stored as RGB, which must not tell them apart."""
    rgb = decode_rgb(read_inside(root, path), name=path).astype(np.uint32)
    return ((rgb @ np.array([19595, 38470, 7471], np.uint32) + 32768) >> 16).astype(np.uint8)  # BT.601


def changed_pixels(
    test: UInt8[np.ndarray, "H W ..."], reference: UInt8[np.ndarray, "H W ..."], boxes: list[Box]
) -> Bool[np.ndarray, "H W"]:
    """Mask of the pixels inside the boxes that differ from the template, one pixel wider all round.

    The boxes are drawn generously, and most of their pixels are as they should be. A box in which nothing differs is
    filled: it is all that is known of its defect.
    """
    apart = np.abs(test.astype(np.int16) - reference.astype(np.int16)).reshape(*test.shape[:2], -1).max(axis=-1)
    wide = np.asarray(ndimage.binary_dilation(apart >= _CHANGED, structure=np.ones((3, 3))), np.bool_)
    mask = np.zeros(test.shape[:2], np.bool_)
    for box in boxes:
        window = (slice(box.top, box.bottom), slice(box.left, box.right))
        mask[window] |= wide[window] | (not wide[window].any())
    return mask
