"""DeepPCB: lists and annotations of the real circuit boards, and crops drawn from them.

Every board is a pair of aligned pictures, tested board and defect-free template, with a box for each defect. A board
whose annotation cannot be read in full is left out whole: a defect that nobody marked would make "normal" crops lie.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool, UInt8
from sage_jax.data.images import ImageFault, decode_rgb, encode_png, read_inside, resolve_inside
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.data_config import DataConfig

VERSION: Final = 2
CATEGORY: Final = "circuit board"
DEFECT_TYPES: Final = ("open", "short", "mousebite", "spur", "spurious copper", "pin-hole")
LISTS: Final = {"train": "trainval.txt", "test": "test.txt"}
_MARGIN_PX: Final = 4
_TRIES: Final = 30
_CHUNK: Final = 1024  # crops held at once: each board is decoded once a chunk, and the crops still come in drawn order
_CACHED_BOARDS: Final = 16
_COPPER_STD: Final = 24.0  # grey levels: a crop without any track edge shows nothing to inspect
_CHANGED: Final = 96  # grey levels; board images are all but black and white

_Result: TypeAlias = AnnotatedImage | Fault


@dataclasses.dataclass(frozen=True)
class Board:
    """A board of a list: its name, the files of its pair, and its defects, boxes in pixels of the whole board."""

    name: str
    test_path: str
    reference_path: str
    defects: tuple[Defect, ...]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A decoded board: tested picture and template, grey, of one size."""

    test: UInt8[np.ndarray, "H W"]
    reference: UInt8[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class _Crop:
    """What to draw: on which board, around which of its boxes (None = a normal crop)."""

    index: int
    board: int
    box: Box | None


class DrawError(ValueError):
    """Crops cannot be drawn as the config asks; the message names the field."""


def read_boards(root: Path, split: Literal["train", "test"]) -> list[Board | Fault]:
    """The boards of a split's list with their annotations, and what is wrong with the others, in the list's order.

    Raises:
      OSError: The list cannot be read.
    """
    lists = {name: _list_lines(root / path) for name, path in LISTS.items()}
    seen = {fields[0] for _, fields in lists["train"]} if split == "test" else set()
    boards: list[Board | Fault] = []
    for line, fields in lists[split]:
        place = str(root / LISTS[split])
        if len(fields) != 2:
            boards.append(Fault(place, line, f"has {len(fields)} fields", "write 'image.jpg annotation.txt'"))
        elif fields[0] in seen:
            boards.append(Fault(place, line, f"board {fields[0]} stands twice in the lists", "remove one line"))
        else:
            seen.add(fields[0])
            boards.extend(_read_board(root, fields[0], fields[1], place, line))
    return boards


def read_images(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[_Result]:
    """Annotated images of DeepPCB: crops of side `data.image_px`, or whole boards where that is 0.

    Boards come strictly from the split's own list. Crops: a share `data.defect_rate` shows a defect, whose type is
    drawn first, evenly, then one of its boxes, then the place of the box in the crop, `_MARGIN_PX` px from its edge at
    least unless the board ends there; other boxes are wholly inside or wholly outside, or else the draw that cuts
    least is taken. The rest are normal crops that touch no box and show copper. Training crops are turned and
    mirrored at random. A crop is determined by `seed`, split and its number.

    Raises:
      DrawError: No crop of this size can be drawn, or a category is held out.
      OSError: The list cannot be read.
    """
    if data.held_out:
        raise DrawError(
            f"data.held_out = {data.held_out}: DeepPCB has one category, {CATEGORY!r}; leave it empty: the boards of "
            f"{LISTS['test']} are for testing"
        )
    root = Path(data.root).expanduser()
    boards: list[Board] = []
    for board in read_boards(root, split):
        if isinstance(board, Fault):
            yield board
        else:
            boards.append(board)
    if not boards:
        return
    num = data.num_train if split == "train" else data.num_test
    if data.image_px == 0:
        yield from _whole_boards(root, boards, num, seed)
        return
    if num == 0:
        raise DrawError(
            f"data.num_{split} = 0: crops are drawn, so say how many, or set data.image_px = 0 for whole boards"
        )
    plan = _plan(boards, data, num, split, seed)
    cache = _BoardCache(root, boards)
    for start in range(0, len(plan), _CHUNK):
        yield from _draw_chunk(plan[start : start + _CHUNK], cache, data.image_px, split, seed)


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


def _read_board(root: Path, image: str, annotation: str, place: str, line: int) -> list[Board | Fault]:
    """The board of one line of a list, or all its faults."""
    test_path, reference_path = _pair_paths(image)
    try:
        resolve_inside(root, test_path)
        resolve_inside(root, reference_path)
        text = read_inside(root, annotation).decode("utf-8", errors="replace")
    except ImageFault as error:
        return [Fault(place, line, f"{error.name} {error.problem}", error.cure)]
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


class _BoardCache:
    """Decoded boards, the most recently used kept."""

    def __init__(self, root: Path, boards: list[Board]) -> None:
        self.root = root
        self.boards = boards
        self._pairs: collections.OrderedDict[int, _Pair | Fault] = collections.OrderedDict()

    def __getitem__(self, index: int) -> _Pair | Fault:
        if index in self._pairs:
            self._pairs.move_to_end(index)
        else:
            self._pairs[index] = self._load(self.boards[index])
            if len(self._pairs) > _CACHED_BOARDS:
                self._pairs.popitem(last=False)
        return self._pairs[index]

    def _load(self, board: Board) -> _Pair | Fault:
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
        return _Pair(test, reference)


def _decode_grey(root: Path, path: str) -> UInt8[np.ndarray, "H W"]:
    """Luminance of a board's picture: some boards are stored as RGB, which must not tell them apart."""
    rgb = decode_rgb(read_inside(root, path), name=path).astype(np.uint32)
    return ((rgb @ np.array([19595, 38470, 7471], np.uint32) + 32768) >> 16).astype(np.uint8)  # BT.601


def _whole_boards(root: Path, boards: list[Board], num: int, seed: int) -> Iterator[_Result]:
    """Whole boards as stored, every one or a seeded draw of `num`, each with all its defects."""
    order = np.random.default_rng([seed, VERSION]).permutation(len(boards))
    cache = _BoardCache(root, boards)
    for index in order[: num or len(boards)]:
        board, pair = boards[index], cache[int(index)]
        if isinstance(pair, Fault):
            yield pair
            continue
        yield AnnotatedImage(
            image_id=board.test_path.removesuffix("_test.jpg"),  # two groups may have boards of one number
            test_image=encode_png(pair.test),
            reference_image=encode_png(pair.reference),
            category=CATEGORY,
            defects=board.defects,
            mask=encode_png(changed_pixels(pair.test, pair.reference, [defect.box for defect in board.defects])),
            test_path=board.test_path,
            reference_path=board.reference_path,
        )


def _rng(split: str, seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([VERSION, list(LISTS).index(split), seed, *key])


def _plan(boards: list[Board], data: DataConfig, num: int, split: str, seed: int) -> list[_Crop]:
    """Draws for every crop whether it is defective, and its board and box; needs the annotations only."""
    by_type: dict[str, list[tuple[int, Box]]] = {name: [] for name in DEFECT_TYPES}
    for index, board in enumerate(boards):
        for defect in board.defects:
            box = defect.box
            if max(box.right - box.left, box.bottom - box.top) + 2 * _MARGIN_PX <= data.image_px:
                by_type[defect.type].append((index, box))
    types = [name for name in DEFECT_TYPES if by_type[name]]
    rng = _rng(split, seed)
    defective = np.arange(num) < round(num * data.defect_rate)
    rng.shuffle(defective)
    if defective.any() and not types:
        raise DrawError(f"data.image_px = {data.image_px}: no defect fits into such a crop; give a larger one")
    plan: list[_Crop] = []
    for index in range(num):
        if defective[index]:
            boxes = by_type[types[rng.integers(len(types))]]
            board, box = boxes[rng.integers(len(boxes))]
            plan.append(_Crop(index, board, box))
        else:
            plan.append(_Crop(index, int(rng.integers(len(boards))), None))
    return plan


def _draw_chunk(plan: list[_Crop], cache: _BoardCache, side: int, split: str, seed: int) -> Iterator[_Result]:
    """Draws crops board by board, so that each board is decoded once, and yields them in the plan's order."""
    drawn: dict[int, _Result] = {}
    for crop in sorted(plan, key=lambda crop: crop.board):
        drawn[crop.index] = _draw(crop, cache, side, split, _rng(split, seed, 1, crop.index))
    yield from (drawn[crop.index] for crop in plan)


def _draw(crop: _Crop, cache: _BoardCache, side: int, split: str, rng: np.random.Generator) -> _Result:
    """One crop. A normal crop that its board has no room for comes from the next board that has."""
    for step in range(len(cache.boards)):
        index = (crop.board + step) % len(cache.boards)
        pair = cache[index]
        if isinstance(pair, Fault):
            return pair
        if min(pair.test.shape) < side:
            path = str(cache.root / cache.boards[index].test_path)
            return Fault(path, None, f"is smaller than a crop of {side} px", "lower data.image_px, or leave it out")
        boxes = [defect.box for defect in cache.boards[index].defects]
        draw = _corner_without if crop.box is None else functools.partial(_corner_with, crop.box)
        corner = draw(boxes, pair, side, rng)
        if corner is not None:
            return _cut(crop.index, cache.boards[index], pair, corner, side, split, rng)
    raise DrawError(f"data.image_px = {side}: no board has room for a crop without a defect; give a smaller one")


def _corner_with(box: Box, boxes: list[Box], pair: _Pair, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left and top of a crop that holds `box` and cuts as little as it can of the others."""
    height, width = pair.test.shape
    best, best_cut = (0, 0), np.inf
    for _ in range(_TRIES):
        left = _offset(box.left, box.right, side, width, rng)
        top = _offset(box.top, box.bottom, side, height, rng)
        cut = sum(_cut_area(other, left, top, side) for other in boxes)
        if cut < best_cut:
            best, best_cut = (left, top), cut
        if cut == 0:
            break
    return best


def _offset(start: int, end: int, side: int, length: int, rng: np.random.Generator) -> int:
    """Start of a crop along one axis that holds start..end with its margin, except where the board ends."""
    most = length - side
    low = min(max(end + _MARGIN_PX - side, 0), most)
    high = min(max(start - _MARGIN_PX, 0), most)
    return int(rng.integers(low, high + 1))


def _overlap(box: Box, left: int, top: int, side: int) -> int:
    """Area of a box inside a crop, in px."""
    width = min(box.right, left + side) - max(box.left, left)
    height = min(box.bottom, top + side) - max(box.top, top)
    return max(width, 0) * max(height, 0)


def _cut_area(box: Box, left: int, top: int, side: int) -> int:
    """Area that is visible of a box that the crop's edge cuts, in px; 0 for one wholly inside or outside."""
    visible = _overlap(box, left, top, side)
    return 0 if visible == (box.right - box.left) * (box.bottom - box.top) else visible


def _corner_without(boxes: list[Box], pair: _Pair, side: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """Left and top of a crop that touches no box and shows copper; None where the board has no such place."""
    height, width = pair.test.shape
    for _ in range(_TRIES):
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        if not any(_overlap(box, left, top, side) for box in boxes) and _has_copper(pair, left, top, side):
            return left, top
    sums = np.pad(_filled(boxes, (height, width)).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    free = np.argwhere(inside == 0)  # top, left of every crop that touches no box
    for top, left in free[rng.permutation(len(free))[:_TRIES]]:
        if _has_copper(pair, int(left), int(top), side):
            return int(left), int(top)
    return None


def _has_copper(pair: _Pair, left: int, top: int, side: int) -> bool:
    return float(pair.reference[top : top + side, left : left + side].std()) >= _COPPER_STD


def _cut(
    index: int, board: Board, pair: _Pair, corner: tuple[int, int], side: int, split: str, rng: np.random.Generator
) -> AnnotatedImage:
    """The crop at a corner with the defects it shows, turned and mirrored if it is for training."""
    left, top = corner
    symmetry = int(rng.integers(8)) if split == "train" else 0
    defects = []
    for defect in board.defects:
        box = defect.box
        if _overlap(box, left, top, side):
            start = max(box.left - left, 0), max(box.top - top, 0)
            end = min(box.right - left, side), min(box.bottom - top, side)
            defects.append(Defect(defect.type, turn_box(Box(*start, *end), side, symmetry)))
    window = (slice(top, top + side), slice(left, left + side))
    test, reference = turn(pair.test[window], symmetry), turn(pair.reference[window], symmetry)
    place = f"#xywh={left},{top},{side},{side}"
    return AnnotatedImage(
        image_id=f"{split}-{index:06d}-{board.name}",
        test_image=encode_png(test),
        reference_image=encode_png(reference),
        category=CATEGORY,
        defects=tuple(defects),
        mask=encode_png(changed_pixels(test, reference, [defect.box for defect in defects])),
        test_path=board.test_path + place,
        reference_path=board.reference_path + place,
    )


def turn(image: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the 8 symmetries of a square: mirrored left to right if 4 or more, then `symmetry % 4` quarter turns."""
    return np.rot90(image[:, ::-1] if symmetry >= 4 else image, symmetry % 4)


def turn_box(box: Box, side: int, symmetry: int) -> Box:
    """Where `turn` takes a box of a square image of that side."""
    if symmetry >= 4:
        box = Box(side - box.right, box.top, side - box.left, box.bottom)
    for _ in range(symmetry % 4):
        box = Box(box.top, side - box.right, box.bottom, side - box.left)
    return box


def changed_pixels(
    test: UInt8[np.ndarray, "H W *C"], reference: UInt8[np.ndarray, "H W *C"], boxes: list[Box]
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


def _filled(boxes: list[Box], shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Mask with every box filled."""
    mask = np.zeros(shape, np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask
