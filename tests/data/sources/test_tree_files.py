"""Files of a tree are found whatever their case and left out where programs hide them."""

from __future__ import annotations

from pathlib import Path

from sage_jax.data.sources.tree_files import (
    entry_of,
    files_below,
    folders_of,
    images_below,
    named,
    orphans,
    relative_to,
)
from tests.support.public_sets import picture


def test_images_below_are_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a.bmp", ".hidden.png", ".trash/0.png", "b/.c/0.png"):
        picture(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("x")
    assert relative_to(tmp_path, images_below(tmp_path)) == ("a.bmp", "b/1.jpg", "b/2.PNG")
    assert len(files_below(tmp_path)) == 4 and files_below(tmp_path / "none") == []
    assert folders_of(tmp_path) == {"b", ".trash"} and folders_of(tmp_path / "none") == set()


def test_the_first_name_that_there_is_counts(tmp_path: Path) -> None:
    picture(tmp_path / "1_mask.PNG")
    picture(tmp_path / "1.tif")
    assert named(tmp_path, ("1_mask", "1")) == [tmp_path / "1_mask.PNG"]
    assert named(tmp_path, ("2", "1")) == [tmp_path / "1.tif"] and named(tmp_path, ("2",)) == []


def test_an_entry_has_one_key_wherever_the_root_is_and_its_own_references(tmp_path: Path) -> None:
    for name in ("test/bent/0.png", "references/test/bent/0.png", "references/0.png"):
        picture(tmp_path / "sets/metal_nut" / name)
    image = tmp_path / "sets/metal_nut/test/bent/0.png"
    roots = {".": tmp_path / "sets/metal_nut", "metal_nut": tmp_path / "sets", "sets/metal_nut": tmp_path}
    found = [entry_of(root, folder, image, "bent") for folder, root in roots.items()]
    assert {(entry.key, entry.category) for entry in found} == {("metal_nut/test/bent/0.png", "metal nut")}
    for (folder, root), entry in zip(roots.items(), found, strict=True):
        assert root / entry.path == image and entry.folder == folder
        assert [root / path for path in entry.references] == [roots["."] / "references/test/bent/0.png"]
    (sentence,) = orphans(
        tmp_path,
        [image, image.with_name("9.png")],
        [found[2].__class__("x", "x", "x", "x", "x", "either", masks=("sets/metal_nut/test/bent/0.png",))],
        tmp_path,
    )
    assert "9.png: is the mask of no image" in sentence
