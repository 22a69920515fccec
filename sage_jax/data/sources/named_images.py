"""Images that a JSON names by paths: their folder, their split, their category, and the draw among them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np

from sage_jax.config import DataConfig
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.images import forward_slashes
from sage_jax.data.sources.items import FormatError

VERSION: Final = 1


def images_root(data: DataConfig) -> Path:
    """Folder that the JSON's image paths are relative to."""
    return Path(data.images_root).expanduser() if data.images_root else Path(data.root).expanduser().parent


def clean_path(name: str) -> str:
    """A path without needless parts, so that an image has one id; `..` and a leading `/` stay, to be refused."""
    return str(PurePosixPath(forward_slashes(name.strip())))


def category_of(given: Any, name: str, vocabulary: Vocabulary) -> str:
    """The category that is given, else the first folder that the vocabulary knows, else the first folder."""
    if isinstance(given, str) and given.strip():
        return given.strip()
    folders = [part.replace("_", " ") for part in PurePosixPath(name).parts[:-1]]
    named = [folder for folder in folders if folder.lower() in vocabulary.objects]
    return (named or folders or ["part"])[0]


def split_of(name: str, category: str, data: DataConfig) -> Literal["train", "test"]:
    """The split of an image: by `data.held_out`, else by the hash of its path, which no seed changes."""
    if data.held_out:
        return "test" if plain(category) in {plain(other) for other in data.held_out} else "train"
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return "test" if share < data.test_fraction else "train"


def check_held_out(data: DataConfig, categories: Collection[str]) -> None:
    """Checks that the data set has every category that is held out.

    Raises:
      FormatError: It has not.
    """
    there = {plain(category) for category in categories}
    for held_out in data.held_out:
        if there and plain(held_out) not in there:
            names = ", ".join(sorted(there))
            raise FormatError(f"data.held_out: {data.root} has no category {held_out!r}; it has {names}")


def plain(category: str) -> str:
    """A category as it is compared."""
    return category.replace("_", " ").strip().lower()


def drawn(names: list[str], num: int, seed: int) -> set[str]:
    """All images, or a seeded draw of `num` of them."""
    unique = sorted(set(names))
    if num == 0 or num >= len(unique):
        return set(unique)
    return {unique[index] for index in np.random.default_rng([VERSION, seed]).permutation(len(unique))[:num]}


def relative_path(root: Path, name: str) -> str:
    """A path as it stands below the root, where it is an absolute one of a file there; else as it is."""
    cleaned = clean_path(name)
    if not cleaned.startswith("/"):
        return cleaned
    for base in (root, root.resolve()):
        if PurePosixPath(cleaned).is_relative_to(base.as_posix()):
            return str(PurePosixPath(cleaned).relative_to(base.as_posix()))
    return cleaned
