"""Crops show what their boxes say, keep to their split, and a bad line or file costs its own board only."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask, decode_rgb, encode_png
from sage_jax.data.records import AnnotatedImage, Box, Fault
from sage_jax.data.sources import deeppcb, deeppcb_boards
from sage_jax.data.sources.deeppcb import DrawError, read_images, turn, turn_box
from sage_jax.data.sources.deeppcb_boards import DEFECT_TYPES, changed_pixels, read_boards
from sage_jax.data.sources.readers import read_records

Split = Literal["train", "test"]
_SIDE = 200


def _board(rng: np.random.Generator) -> np.ndarray:
    """A template of copper tracks, black and white."""
    template = np.zeros((_SIDE, _SIDE), np.uint8)
    for start in range(int(rng.integers(6, 14)), _SIDE, 25):
        template[:, start : start + int(rng.integers(6, 12))] = 255
    return template


def _write_tree(root: Path, num: dict[str, int], boxes: list[tuple[int, int, int, int, int]]) -> None:
    """A small DeepPCB; every defect is a patch of its own grey, 100 + type, as large as its box."""
    rng = np.random.default_rng(7)
    (root / "g/g").mkdir(parents=True)
    (root / "g/g_not").mkdir()
    for name, count in num.items():
        lines = []
        for index in range(count):
            stem, template = f"{name}{index:03d}", _board(rng)
            tested = template.copy()
            rows = []
            for left, top, right, bottom, kind in boxes:
                tested[top:bottom, left:right] = 100 + kind
                rows.append(f"{left} {top} {right} {bottom} {kind}")
            (root / f"g/g/{stem}_test.jpg").write_bytes(encode_png(tested))  # decoders go by content, not by name
            (root / f"g/g/{stem}_temp.jpg").write_bytes(encode_png(template))
            (root / f"g/g_not/{stem}.txt").write_text("\n".join(rows) + "\n")
            lines.append(f"g/g/{stem}.jpg g/g_not/{stem}.txt\n")
        (root / deeppcb_boards.LISTS[name]).write_text("".join(lines))


_BOXES = [(20, 30, 40, 50, 1), (60, 30, 75, 60, 2), (2, 150, 22, 170, 3), (180, 180, 199, 199, 6)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    _write_tree(tmp_path, {"train": 3, "test": 2}, _BOXES)
    return tmp_path


def _config(root: Path, **changes: object) -> DataConfig:
    base = DataConfig(source="deeppcb", root=str(root), image_px=64, num_train=120, num_test=60)
    return dataclasses.replace(base, **changes)


def _images(data: DataConfig, split: Split, seed: int = 0) -> list[AnnotatedImage]:
    items = list(read_images(data, split, seed))
    assert not [item for item in items if isinstance(item, Fault)]
    return [item for item in items if isinstance(item, AnnotatedImage)]


def _shown(image: AnnotatedImage) -> np.ndarray:
    """Type of the defect at every pixel, read from the picture alone; 0 = none."""
    grey = decode_rgb(image.test_image, name="test")[:, :, 0].astype(np.int32)
    return np.where((grey > 100) & (grey < 107), grey - 100, 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_boxes_types_and_mask_are_what_the_crop_shows(tree: Path, split: Split) -> None:
    for image in _images(_config(tree), split):
        drawn = np.zeros((64, 64), np.int32)
        for defect in image.defects:
            box = defect.box
            drawn[box.top : box.bottom, box.left : box.right] = DEFECT_TYPES.index(defect.type) + 1
        np.testing.assert_array_equal(_shown(image), drawn)
        assert image.mask is not None and image.reference_image is not None
        np.testing.assert_array_equal(decode_mask(image.mask), drawn > 0)
        same = decode_rgb(image.test_image, name="t") == decode_rgb(image.reference_image, name="r")
        assert same.all(axis=2)[drawn == 0].all(), "test and reference are turned alike"
        assert image.category == "circuit board"


def test_share_of_defects_and_their_types_are_even(tree: Path) -> None:
    images = _images(_config(tree, num_train=600, defect_rate=0.75), "train")
    assert sum(bool(image.defects) for image in images) == 450
    types = collections.Counter(defect.type for image in images for defect in image.defects)
    assert set(types) == {"open", "short", "mousebite", "pin-hole"}
    # "open" and "short" lie near enough to share a crop; the other two are alone, each a quarter of the draws
    for name in ("mousebite", "pin-hole"):
        assert 80 <= types[name] <= 146  # 112.5 expected, 3.6 standard deviations


def test_normal_crops_show_copper_and_no_defect(tree: Path) -> None:
    for path in (tree / "g/g").glob("*.jpg"):
        board = decode_rgb(path.read_bytes(), name="board")[:, :, 0].copy()
        board[:, 90:] = 0  # most places show nothing
        path.write_bytes(encode_png(board))
    for image in _images(_config(tree, defect_rate=0.0), "train"):
        assert image.defects == () and not _shown(image).any()
        assert image.mask is not None and not decode_mask(image.mask).any()
        assert decode_rgb(image.test_image, name="t").std() > 20


def test_a_defect_keeps_its_margin_unless_the_board_ends(tree: Path) -> None:
    seen_at_border = False
    for image in _images(_config(tree, defect_rate=1.0, num_test=300), "test"):
        left, top = map(int, image.test_path.split("#xywh=")[1].split(",")[:2])
        for defect in image.defects:
            box = defect.box
            gaps = (
                (box.left, left == 0),
                (box.top, top == 0),
                (64 - box.right, left == 136),
                (64 - box.bottom, top == 136),
            )
            if len(image.defects) == 1:
                assert all(gap >= 4 or at_end for gap, at_end in gaps)
                seen_at_border |= any(gap < 4 for gap, _ in gaps)
    assert seen_at_border


def test_other_boxes_are_whole_or_absent_where_that_is_possible(tree: Path) -> None:
    areas = {"open": 400, "short": 450, "mousebite": 400, "pin-hole": 361}
    for image in _images(_config(tree, defect_rate=1.0, num_test=300), "test"):
        for defect in image.defects:
            box = defect.box
            assert (box.right - box.left) * (box.bottom - box.top) == areas[defect.type]


def test_a_box_that_must_be_cut_is_cut_and_still_marked(tmp_path: Path) -> None:
    _write_tree(tmp_path, {"train": 1, "test": 1}, [(100, 100, 110, 110, 1), (0, 112, 200, 120, 2)])
    for image in _images(_config(tmp_path, defect_rate=1.0), "test"):
        kinds = {defect.type for defect in image.defects}
        assert "open" in kinds, "the long box fits into no crop and is never the one drawn"
        np.testing.assert_array_equal(np.unique(_shown(image))[1:], [DEFECT_TYPES.index(k) + 1 for k in sorted(kinds)])


def test_same_seed_same_crops_and_another_seed_others(tree: Path) -> None:
    data = _config(tree)
    assert _images(data, "train", 3) == _images(data, "train", 3)
    first, other = _images(data, "train", 3), _images(data, "train", 4)
    assert sum(a.test_image == b.test_image for a, b in zip(first, other, strict=True)) < 12
    assert len({image.image_id for image in (*first, *_images(data, "test", 3))}) == 180


def test_chunks_change_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _images(_config(tree), "train")
    monkeypatch.setattr(deeppcb, "_CHUNK", 7)
    monkeypatch.setattr(deeppcb_boards, "_CACHED_BOARDS", 1)
    assert _images(_config(tree), "train") == whole


def test_boxes_turn_with_their_pixels() -> None:
    rng = np.random.default_rng(5)
    for symmetry in range(8):
        for _ in range(20):
            left, top = rng.integers(0, 40, 2).tolist()
            box = Box(left, top, left + int(rng.integers(1, 24)), top + int(rng.integers(1, 24)))
            mask = np.zeros((64, 64), bool)
            mask[box.top : box.bottom, box.left : box.right] = True
            rows, columns = np.nonzero(turn(mask, symmetry))
            expected = Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert turn_box(box, 64, symmetry) == expected
    square = np.arange(9).reshape(3, 3)
    assert len({turn(square, symmetry).tobytes() for symmetry in range(8)}) == 8


def test_boards_of_one_number_in_two_groups_are_two_images(tree: Path) -> None:
    (tree / "h").symlink_to(tree / "g")
    line = "h/g/train000.jpg h/g_not/train000.txt\n"
    (tree / "trainval.txt").write_text((tree / "trainval.txt").read_text() + line)
    records = list(read_records(_config(tree, image_px=0, num_train=0), "train", 0))
    assert len(records) == 4 and not [record for record in records if isinstance(record, Fault)]


def test_a_held_out_category_is_refused_with_the_way_out(tree: Path) -> None:
    with pytest.raises(DrawError, match=r"data\.held_out = \('nut',\): .*test\.txt are for testing"):
        _images(_config(tree, held_out=("nut",)), "train")


def test_whole_boards_keep_every_defect(tree: Path) -> None:
    images = _images(_config(tree, image_px=0, num_train=0), "train")
    assert sorted(image.image_id for image in images) == ["g/g/train000", "g/g/train001", "g/g/train002"]
    for image in images:
        assert [DEFECT_TYPES.index(defect.type) + 1 for defect in image.defects] == [1, 2, 3, 6]
        assert image.mask is not None
        np.testing.assert_array_equal(decode_mask(image.mask), _shown(image) > 0)
    assert len(_images(_config(tree, image_px=0, num_train=2), "train")) == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1 2 3 4", "five whole numbers"),
        ("5 5 9 x 1", "five"),
        ("9 5 9 8 1", "no area"),
        ("1 1 9 9 7", "type 7"),
        ("-1 1 9 9 1", "five"),
    ],
)
def test_a_bad_annotation_line_is_named_and_costs_its_board(tree: Path, row: str, problem: str) -> None:
    path = tree / "g/g_not/train001.txt"
    path.write_text(f"1,1,5,5,2\n\n 20, 20  30 30 , 3\n{row}\n")
    boards = read_boards(tree, "train")
    faults = [board for board in boards if isinstance(board, Fault)]
    assert len(boards) == 3 and len(faults) == 1
    assert faults[0].file == str(path) and faults[0].line == 4 and problem in faults[0].problem
    path.write_text("1,1,5,5,2\n\n 20, 20  30 30 , 3\n")
    assert not [board for board in read_boards(tree, "train") if isinstance(board, Fault)]


def test_bad_list_lines_are_named(tree: Path) -> None:
    lines = [
        "g/g/test000.jpg",
        "g/g/none.jpg g/g_not/test000.txt",
        "../x.jpg g/g_not/test000.txt",
        "",
        "g/g/train000.jpg g/g_not/train000.txt",
        *["g/g/test001.jpg g/g_not/test001.txt"] * 2,
    ]
    (tree / "test.txt").write_text("\n".join(lines))
    boards = read_boards(tree, "test")
    faults = [board for board in boards if isinstance(board, Fault)]
    assert [fault.line for fault in faults] == [1, 2, 3, 5, 7]
    for fault, word in zip(faults, ("1 fields", "does not exist", "outside", "twice", "twice"), strict=True):
        assert fault.file == str(tree / "test.txt") and word in fault.problem
    assert len(boards) == 6


def test_bad_pictures_are_faults(tree: Path) -> None:
    picture = tree / "g/g/train001_test.jpg"
    whole = picture.read_bytes()
    for content, problem in (
        (whole[: len(whole) // 2], "truncated"),
        (b"", "empty"),
        (encode_png(np.zeros((100, 100), np.uint8)), "its template"),
    ):
        picture.write_bytes(content)
        items = list(read_images(_config(tree), "train", 0))
        faults = {item for item in items if isinstance(item, Fault)}
        assert [(fault.file, problem in fault.problem) for fault in faults] == [(str(picture), True)]
        assert len(items) == 120 and any(isinstance(item, AnnotatedImage) for item in items)
    picture.write_bytes(whole)
    (tree / "g/g_not/train001.txt").write_text("150 150 250 180 1\n")
    faults = {item for item in read_images(_config(tree), "train", 0) if isinstance(item, Fault)}
    assert len(faults) == 1 and "does not lie" in faults.pop().problem


def test_what_cannot_be_drawn_is_an_error_with_its_field(tree: Path) -> None:
    for changes, words in (
        ({"num_train": 0}, "num_train = 0"),
        ({"image_px": 12, "defect_rate": 1.0}, "image_px = 12"),
        ({"image_px": 190, "defect_rate": 0.0}, "image_px = 190"),
    ):
        with pytest.raises(deeppcb.DrawError, match=words):
            list(read_images(_config(tree, **changes), "train", 0))


def test_real_boards_have_no_fault_and_give_every_type(shared: Path) -> None:
    root = shared / "data/deeppcb"
    if not root.is_dir():
        pytest.skip("the part of DeepPCB beside the checkout is absent")
    assert [len(read_boards(root, "train")), len(read_boards(root, "test"))] == [414, 159]
    assert not [board for board in read_boards(root, "test") + read_boards(root, "train") if isinstance(board, Fault)]
    images = _images(_config(root, image_px=128, num_test=100), "test")
    assert len(images) == 100 and sum(bool(image.defects) for image in images) == 50
    assert {defect.type for image in images for defect in image.defects} == set(DEFECT_TYPES)
    listed = {line.split()[0].removesuffix(".jpg") for line in (root / "test.txt").read_text().splitlines()}
    assert {image.test_path.split("_test.jpg")[0] for image in images} <= listed
    changed = []
    for image in images:
        assert image.reference_image is not None and image.mask is not None
        test, reference = (decode_rgb(data, name="x").astype(int) for data in (image.test_image, image.reference_image))
        inside = decode_mask(image.mask)
        difference = np.abs(test - reference).max(axis=2) > 128
        if image.defects:
            changed.append(difference[inside].mean() > 3 * difference[~inside].mean())
    assert np.mean(changed) > 0.95, "boxes lie where test and template differ"


def test_mask_is_what_changed_inside_a_box_or_the_box_where_nothing_did() -> None:
    reference = np.zeros((40, 40, 3), np.uint8)
    test = reference.copy()
    test[10, 12] = test[35, 2] = 255  # the second lies outside every box
    mask = changed_pixels(test, reference, [Box(8, 8, 20, 20), Box(25, 25, 30, 30)])
    expected = np.zeros((40, 40), bool)
    expected[9:12, 11:14] = True  # one pixel wider all round
    expected[25:30, 25:30] = True
    np.testing.assert_array_equal(mask, expected)
