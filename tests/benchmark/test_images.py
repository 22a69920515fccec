"""The images of a question set, read once before anything is asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from sage_jax.benchmark.images import CheckedImages, check_images, images_root
from sage_jax.benchmark.mmad import read_mmad
from sage_jax.config import BenchmarkConfig
from tests.support.question_sets import write_manta, write_mmad


def checked(root: Path, *, shots: int = 1) -> tuple[CheckedImages, list[int]]:
    told: list[int] = []

    @contextlib.contextmanager
    def progress(total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
        assert unit == "image"
        yield told.append
        assert told[-1] == total

    items = read_mmad(BenchmarkConfig(root=str(root / "mmad.json"), shots=(0, 1))).items
    return check_images(items, root, shots=shots, progress=progress), told


def test_good_images_have_their_digests(tmp_path: Path) -> None:
    write_mmad(tmp_path)
    found, told = checked(tmp_path)
    assert len(found.items) == 8 and found.faults == [] and told == list(range(1, 13))
    for path, digest in found.digests.items():
        assert digest == hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
    assert len(found.digests) == 12


def test_missing_ones_are_one_fault_and_damaged_ones_their_own(tmp_path: Path) -> None:
    write_mmad(tmp_path)
    for dataset in ("VisA/candle", "GoodsAD/cigarette_box"):
        (tmp_path / dataset / "test/good/000.png").unlink()
    broken = tmp_path / "DS-MVTec/bottle/test/broken/000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    found, _ = checked(tmp_path)
    missing, truncated = map(str, found.faults)
    assert f"2 images are missing under {tmp_path}, such as VisA/candle/test/good/000.png" in missing
    assert "set benchmark.images_root" in missing and str(tmp_path / "mmad.json") in missing
    assert "mmad.json: DS-MVTec/bottle/test/broken/000.png: " in truncated and "is truncated" in truncated
    assert len(found.items) == 5 and not any("broken/000" in path and "bottle" in path for path in found.digests)


def test_a_missing_template_is_told_with_the_item_unless_none_is_shown(tmp_path: Path) -> None:
    write_mmad(tmp_path)
    (tmp_path / "VisA/candle/train/good/000.png").unlink()
    found, _ = checked(tmp_path)
    (fault,) = found.faults
    assert "1 image is missing" in str(fault) and "train/good/000.png, of VisA/candle/test/broken" in str(fault)
    assert len(found.items) == 6
    assert checked(tmp_path, shots=0)[0].faults == []


def test_paths_and_links_that_leave_the_root_are_faults(tmp_path: Path) -> None:
    root = tmp_path / "set"
    path = write_mmad(root)
    content = json.loads(path.read_text(encoding="utf-8"))
    key = "VisA/candle/test/good/000.png"
    (root / key).rename(tmp_path / "outside.png")
    (root / key).symlink_to(tmp_path / "outside.png")
    other = "VisA/candle/test/broken/000.png"
    content[other]["similar_templates"] = ["../outside.png"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found, _ = checked(root)
    assert [str(fault).count("lies outside") for fault in found.faults] == [1, 1]
    assert len(found.items) == 6


def test_the_root_is_the_folder_of_the_set(tmp_path: Path) -> None:
    mmad, manta = write_mmad(tmp_path / "m"), write_manta(tmp_path / "q")
    assert images_root(BenchmarkConfig(root=str(mmad))) == tmp_path / "m"
    for root in (manta, manta.parent):
        assert images_root(BenchmarkConfig(name="manta", root=str(root))) == tmp_path / "q"
    assert images_root(BenchmarkConfig(root=str(mmad), images_root=str(tmp_path))) == tmp_path
