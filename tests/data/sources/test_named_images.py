"""Images that a JSON names: where they lie, and what their paths decide."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.sources.items import FormatError
from sage_jax.data.sources.named_images import (
    category_of,
    check_held_out,
    clean_path,
    drawn,
    images_root,
    relative_path,
    split_of,
)

DATA = DataConfig(source="adpl", root="sets/a.json", num_train=0, num_test=0, test_fraction=0.3)


def test_images_lie_beside_the_file_or_where_the_config_says() -> None:
    assert images_root(DATA) == Path("sets")
    assert images_root(dataclasses.replace(DATA, images_root="pictures")) == Path("pictures")


def test_a_path_has_one_spelling(tmp_path: Path) -> None:
    assert clean_path(" ./a//b.png ") == clean_path("a\\b.png") == "a/b.png"
    assert clean_path("../a.png") == "../a.png" and clean_path("/a.png") == "/a.png"
    assert relative_path(tmp_path, f"{tmp_path}/a/b.png") == relative_path(tmp_path, "a/b.png") == "a/b.png"
    assert relative_path(tmp_path / "a", f"{tmp_path}/b.png") == f"{tmp_path}/b.png", "left to be refused"


def test_the_category_is_given_or_the_first_folder_that_the_vocabulary_knows() -> None:
    words = load_vocabulary("")
    known = next(iter(words.objects))
    assert category_of("seal", "a/b.png", words) == "seal" and category_of(None, "b.png", words) == "part"
    assert category_of(None, f"set_1/{known.replace(' ', '_')}/b.png", words) == known
    assert category_of(" ", "set_1/x/b.png", words) == "set 1"


def test_the_split_is_that_of_the_category_or_of_the_paths_hash() -> None:
    names = [f"{number}.png" for number in range(400)]
    tested = [name for name in names if split_of(name, "part", DATA) == "test"]
    assert 80 < len(tested) < 160 and tested == [n for n in names if split_of(n, "seal", DATA) == "test"]
    held_out = dataclasses.replace(DATA, held_out=("Lens_Cap",))
    assert split_of("0.png", "lens cap", held_out) == "test" and split_of("0.png", "cap", held_out) == "train"
    check_held_out(held_out, ["lens_cap", "gear"])
    with pytest.raises(FormatError, match=r"no category 'Lens_Cap'; it has gear"):
        check_held_out(held_out, ["gear"])


def test_a_draw_follows_its_seed_and_counts_images_once() -> None:
    names = [f"{number % 20}.png" for number in range(60)]
    assert drawn(names, 0, 1) == drawn(names, 20, 1) == set(names)
    assert len(drawn(names, 7, 1)) == 7 and drawn(names, 7, 1) == drawn(sorted(names), 7, 1) != drawn(names, 7, 2)


def test_paths_are_written_in_one_way() -> None:
    assert clean_path(" a//b/./c.png ") == clean_path("a\\b\\c.png") == "a/b/c.png"
    assert clean_path("../a.png") == "../a.png"
