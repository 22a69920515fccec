"""Lists, annotations and decoded pairs of boards, each fault told at its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sage_jax.data.images import encode_png
from sage_jax.data.records import Box, Defect, Fault
from sage_jax.data.sources.deeppcb_boards import BoardCache, Pair, changed_pixels, files, read_boards

SIDE = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two boards to train on and one to test on, grey with one changed patch each."""
    (tmp_path / "trainval.txt").write_text("a/one.jpg a/one.txt\n\na/two.jpg a/two.txt\n")
    (tmp_path / "test.txt").write_text("a/three.jpg a/three.txt\n")
    (tmp_path / "a").mkdir()
    for name in ("one", "two", "three"):
        board = np.zeros((SIDE, SIDE), np.uint8)
        (tmp_path / f"a/{name}_temp.jpg").write_bytes(encode_png(board))
        board[10:14, 20:24] = 255
        (tmp_path / f"a/{name}_test.jpg").write_bytes(encode_png(board))
        (tmp_path / f"a/{name}.txt").write_text("18 8 26 16 3\n")
    return tmp_path


def test_boards_come_in_the_order_of_their_list(root: Path) -> None:
    boards = read_boards(root, "train")
    assert [getattr(board, "name", None) for board in boards] == ["one", "two"]
    assert not isinstance(boards[0], Fault) and boards[0].defects == (Defect("mousebite", Box(18, 8, 26, 16)),)
    assert list(files(root))[:4] == ["trainval.txt", "a/one_test.jpg", "a/one_temp.jpg", "a/one.txt"]
    assert len(list(files(root))) == 2 + 3 * 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 2 3\n", "'1 2 3' is not five whole numbers"),
        ("18 8 26 16 -3\n", "is not five whole numbers"),
        ("26 8 18 16 3\n", "box 26 8 18 16 has no area"),
        ("18 8 26 16 7\n", "type 7 does not exist"),
    ],
)
def test_a_bad_annotation_costs_its_board_and_is_told_at_its_line(root: Path, text: str, problem: str) -> None:
    (root / "a/one.txt").write_text("18,8,26,16,1\n" + text)
    fault, other = read_boards(root, "train")
    assert isinstance(fault, Fault) and (fault.file, fault.line) == (str(root / "a/one.txt"), 2)
    assert problem in fault.problem and not isinstance(other, Fault)


def test_a_board_that_stands_twice_or_outside_is_left_out(root: Path) -> None:
    (root / "test.txt").write_text("a/one.jpg a/one.txt\n../b.jpg b.txt\nalone\na/three.jpg a/three.txt\n")
    found = read_boards(root, "test")
    told = [each.problem for each in found if isinstance(each, Fault)]
    assert told[0] == "board a/one.jpg stands twice in the lists" and told[2] == "has 1 fields" and len(found) == 4
    assert "b_test.jpg" in told[1]


def test_pairs_are_kept_and_bad_ones_told(root: Path) -> None:
    boards = [board for board in read_boards(root, "train") if not isinstance(board, Fault)]
    (root / "a/two_temp.jpg").write_bytes(encode_png(np.zeros((SIDE, SIDE + 1), np.uint8)))
    cache = BoardCache(root, boards)
    first = cache[0]
    assert isinstance(first, Pair) and first.test.shape == (SIDE, SIDE) and cache[0] is first
    second = cache[1]
    assert isinstance(second, Fault) and "is 40 x 40 px, its template 41 x 40" in second.problem
    (root / "a/one.txt").write_text("18 8 41 16 3\n")
    (outside,) = [BoardCache(root, [b])[0] for b in read_boards(root, "train")[:1] if not isinstance(b, Fault)]
    assert isinstance(outside, Fault) and "does not lie in the image of 40 x 40 px" in outside.problem


def test_changed_pixels_are_those_that_differ_and_one_more_all_round() -> None:
    template = np.zeros((SIDE, SIDE), np.uint8)
    test = template.copy()
    test[10:14, 20:24] = 255
    test[30, 30] = 60  # no change of a board
    mask = changed_pixels(test, template, [Box(18, 8, 26, 16), Box(28, 28, 32, 32)])
    expected = np.zeros((SIDE, SIDE), np.bool_)
    expected[9:15, 19:25] = True
    expected[28:32, 28:32] = True  # nothing differs in it: the box is all that is known
    np.testing.assert_array_equal(mask, expected)
