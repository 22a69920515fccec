"""The benchmark of copies cuts board and template at the same places, and counts what is called one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.copies import cuts, measure


def write_boards(root: Path) -> None:
    """Two boards of 300 px with their templates, in DeepPCB's layout."""
    rng = np.random.default_rng(0)
    for name in ("trainval.txt", "test.txt"):
        group = f"group1/{name[:4]}"
        (root / group).mkdir(parents=True)
        (root / f"{group}_not").mkdir()
        board = np.kron(rng.integers(0, 2, (15, 15)) * 255, np.ones((20, 20))).astype(np.uint8)
        broken = board.copy()
        broken[100:110, 100:110] = 255 - broken[100:110, 100:110]
        Image.fromarray(board).save(root / group / "1_temp.jpg", quality=95)
        Image.fromarray(broken).save(root / group / "1_test.jpg", quality=95)
        (root / f"{group}_not" / "1.txt").write_text("98 98 112 112 2\n")
        (root / name).write_text(f"{group}/1.jpg {group}_not/1.txt\n")


def test_a_board_is_no_copy_of_its_template_and_a_saved_one_is(tmp_path: Path) -> None:
    write_boards(tmp_path)
    found = measure(tmp_path, 2)
    assert found["template, 640 px"] == "0 of 2", "the whole board shows the defect"
    assert found["JPEG 75, 128 px"].split(" of ")[0] == found["JPEG 75, 128 px"].split(" of ")[1] != "0"
    sides = [side for side, tested, template in cuts(tmp_path, 1) if tested.shape == template.shape]
    assert sides == [128] * 4 + [256] * 4 + [640]
