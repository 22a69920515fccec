"""Names that say what is for testing are told from those that do not, whatever stands around the word."""

from __future__ import annotations

import pytest

from sage_jax.data.sources.split_names import is_for_testing, is_split


@pytest.mark.parametrize("name", ["test", "Test", "VisA_test_QA", "val2", "testData", "dev", "my-eval-set", "VALID"])
def test_names_of_test_data(name: str) -> None:
    assert is_for_testing(name)


@pytest.mark.parametrize(
    "name", ["train", "trainval", "train_val", "latest", "bottle", "device", "MVTec_QA", "", "contest"]
)
def test_other_names(name: str) -> None:
    assert not is_for_testing(name)


def test_a_split_alone_is_its_whole_name() -> None:
    assert all(map(is_split, ("train", "Testing", "val", "TRAIN")))
    assert not any(map(is_split, ("test_rig", "bottle", "trainval", "")))
