"""Entries: boxes of masks, the division by hash, and references."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from sage_jax.config import DataConfig
from sage_jax.data.records import Box, Defect
from sage_jax.data.sources.entries import Entry, defects_of, kinds_of, references_among, split_of


def test_boxes_are_the_connected_components_of_the_mask() -> None:
    """Against a flood fill written out: pixels that touch, corners included, are one defect."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        mask = np.kron(rng.random((8, 8)) < 0.25, np.ones((4, 4), bool))
        left = {tuple(place) for place in np.argwhere(mask).tolist()}
        expected = []
        while left:
            queue, part = [left.pop()], []
            while queue:
                row, column = queue.pop()
                part.append((row, column))
                for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                    if near in left:
                        left.remove(near)
                        queue.append(near)
            rows, columns = zip(*part, strict=True)
            expected.append(Box(min(columns), min(rows), max(columns) + 1, max(rows) + 1))
        assert collections.Counter(defect.box for defect in defects_of(mask, "x")) == collections.Counter(expected)


def test_specks_are_no_defect_of_their_own() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[35, 35] = True
    assert defects_of(mask, "hole") == (Defect("hole", Box(5, 5, 25, 25)),)
    assert defects_of(np.zeros((4, 4), bool), "hole") == ()


def entries(number: int, home: str, label: str = "good") -> list[Entry]:
    plain = Entry("pill", "pill", label, "", "", "either")
    return [
        dataclasses.replace(plain, path=f"{label}/{index}.png", key=f"pill/{home}/{label}/{index}.png", home=home)
        for index in range(number)
    ]


def test_entries_without_a_home_are_divided_by_their_key_alone() -> None:
    data = DataConfig(test_fraction=0.3)
    free = entries(400, "either")
    found = [split_of(entry, data) for entry in free]
    assert 0.2 < found.count("test") / 400 < 0.4 and set(found) == {"train", "test"}
    assert found == [split_of(dataclasses.replace(entry, path="elsewhere.png"), data) for entry in free]
    assert {split_of(entry, data) for entry in entries(9, "train")} == {"train"}
    assert {split_of(entry, data) for entry in entries(9, "test")} == {"test"}


def test_of_a_held_out_category_the_training_images_are_references_alone() -> None:
    data = DataConfig(held_out=("pill",))
    every = [*entries(3, "train"), *entries(3, "test"), *entries(3, "either", "crack")]
    assert [split_of(entry, data) for entry in every] == ["neither"] * 3 + ["test"] * 6
    assert references_among(every, data) == {"pill": every[:3]}
    others = DataConfig(held_out=("screw",))
    assert {split_of(entry, others) for entry in every} == {"train"}
    assert references_among(every, others) == {"pill": every[:3]}, "none of the authors' test images"


def test_no_test_image_is_a_reference() -> None:
    data = DataConfig(test_fraction=0.5)
    every = [*entries(60, "either"), *entries(5, "test"), *entries(5, "train", "crack")]
    found = references_among(every, data)["pill"]
    assert found == [entry for entry in every[:60] if split_of(entry, data) == "train"] and 15 < len(found) < 45
    assert kinds_of(every) == {"pill": {"crack": 5}}
