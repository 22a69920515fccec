"""Names of files and folders that say which split lies in them: what is for testing must not train unnoticed."""

from __future__ import annotations

import re
from typing import Final

_TRAIN: Final = {"train", "training"}
_TEST: Final = {
    *("test", "testing", "testset", "val", "valid", "validation", "valset"),
    *("eval", "evaluation", "dev", "holdout", "heldout"),
}
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def is_split(name: str) -> bool:
    """Whether a name is that of a split and of nothing else: `train`, `Testing`, `val`."""
    return name.lower() in _TRAIN | _TEST


def is_for_testing(name: str) -> bool:
    """Whether a name, without suffix, says that something is to test or validate on.

    "test", "VisA_test_QA", "val2", "testData"    yes
    "train", "trainval", "train_val", "latest"    no
    """
    found = {word.lower() for word in _WORDS.findall(name)}
    return bool(found & _TEST) and not found & _TRAIN
