"""DeepPCB as annotated images: whole boards, or crops drawn from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from sage_jax.axes import Bool
from sage_jax.config import DataConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.data.sources.deeppcb_boards import (
    DEFECT_TYPES,
    LISTS,
    Board,
    BoardCache,
    Pair,
    changed_pixels,
    read_boards,
)
from sage_jax.errors import UserError

VERSION: Final = 2
CATEGORY: Final = "circuit board"
_MARGIN_PX: Final = 4
_TRIES: Final = 30
_CHUNK: Final = 1024  # crops held at once: each board is decoded once a chunk, and the crops still come in drawn order
_COPPER_STD: Final = 24.0  # grey levels: a crop without any track edge shows nothing to inspect

_Result: TypeAlias = AnnotatedImage | Fault


@dataclasses.dataclass(frozen=True)
class _Crop:
    """What to draw: on which board, around which of its boxes (None = a normal crop)."""

    index: int
    board: int
    box: Box | None


class DrawError(UserError):
    """Crops cannot be drawn as the config asks; the message names the field."""


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
    cache = BoardCache(root, boards)
    for start in range(0, len(plan), _CHUNK):
        yield from _draw_chunk(plan[start : start + _CHUNK], cache, data.image_px, split, seed)


def _whole_boards(root: Path, boards: list[Board], num: int, seed: int) -> Iterator[_Result]:
    """Whole boards as stored, every one or a seeded draw of `num`, each with all its defects."""
    order = np.random.default_rng([seed, VERSION]).permutation(len(boards))
    cache = BoardCache(root, boards)
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


def _draw_chunk(plan: list[_Crop], cache: BoardCache, side: int, split: str, seed: int) -> Iterator[_Result]:
    """Draws crops board by board, so that each board is decoded once, and yields them in the plan's order."""
    drawn: dict[int, _Result] = {}
    for crop in sorted(plan, key=lambda crop: crop.board):
        drawn[crop.index] = _draw(crop, cache, side, split, _rng(split, seed, 1, crop.index))
    yield from (drawn[crop.index] for crop in plan)


def _draw(crop: _Crop, cache: BoardCache, side: int, split: str, rng: np.random.Generator) -> _Result:
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


def _corner_with(box: Box, boxes: list[Box], pair: Pair, side: int, rng: np.random.Generator) -> tuple[int, int]:
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


def _corner_without(boxes: list[Box], pair: Pair, side: int, rng: np.random.Generator) -> tuple[int, int] | None:
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


def _has_copper(pair: Pair, left: int, top: int, side: int) -> bool:
    return float(pair.reference[top : top + side, left : left + side].std()) >= _COPPER_STD


def _cut(
    index: int, board: Board, pair: Pair, corner: tuple[int, int], side: int, split: str, rng: np.random.Generator
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
    window = f"#xywh={left},{top},{side},{side}"
    return AnnotatedImage(
        image_id=f"{split}-{index:06d}-{board.name}",
        test_image=encode_png(test),
        reference_image=encode_png(reference),
        category=CATEGORY,
        defects=tuple(defects),
        mask=encode_png(changed_pixels(test, reference, [defect.box for defect in defects])),
        test_path=board.test_path + window,
        reference_path=board.reference_path + window,
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


def _filled(boxes: list[Box], shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Mask with every box filled."""
    mask = np.zeros(shape, np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask
