"""Trees of folders whose names say what their images show: MVTec's, and other public layouts (sources/layouts.py).

MVTec AD, MPDD, GoodsAD, VisA's one-class copy (`bad`), MVTec LOCO (`validation`, several masks an image), BTAD (`ok`,
`ko`), MVTec AD 2 (`test_public`), VisA as published, DAGM 2007, KolektorSDD and KolektorSDD2, MANTA; with
`data.source=folder` also a user's own (sources/own_folders.py). The root is one category or a folder of them; MANTA's
may be a folder of domains, and `ImageData` may lie in it.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np

from sage_jax.config import DataConfig
from sage_jax.data.images import SUFFIXES
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources.entries import (
    GOOD_NAMES,
    Entry,
    EntryReader,
    draw,
    kinds_of,
    references_among,
    shown,
    split_of,
    words,
)
from sage_jax.data.sources.layouts import layout_of
from sage_jax.data.sources.manta_images import MantaFolders
from sage_jax.data.sources.own_folders import OWN
from sage_jax.data.sources.split_names import is_for_testing, is_split
from sage_jax.data.sources.tree_files import Layout, files_below, images_below
from sage_jax.errors import UserError

VERSION: Final = 2


class FolderLayoutError(UserError):
    """A folder that is no tree of a known layout, or a category that it does not have."""


class SplitFoldersError(FolderLayoutError):
    """Folders that are named as splits where those of categories are read."""


def read_images(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[AnnotatedImage | Fault]:
    """Annotated images of a tree.

    The training folder of MVTec's layout holds no defect, so nobody could learn from it to answer a question about
    one. So the defective images of `test/` are divided by a hash of their path, which no seed changes: a share
    `data.test_fraction` for testing, the rest, with the good images of `train/`, for training; the good images of
    `test/` are for testing. VisA's folders have no split: all of its images are divided so. With `data.held_out`,
    whole categories are for testing (their training folder gives references only) and all of the others, `test/`
    included, is for training.

    The references of an image, `data.num_references` of them as far as there are so many, are good training images of
    its category, beginning with one that a hash of its path chooses, never itself.
    Masks become boxes by connected components; the defect's type is the label. With `data.num_train` or
    `data.num_test` above 0, that many images are drawn, good and defective in equal numbers and evenly over
    categories and types as far as there are enough. Either way good and defective images alternate.

    Raises:
      FolderLayoutError: The root is no such tree, or has none of the held-out categories.
    """
    root = Path(data.root).expanduser()
    found = categories(data)
    _check_held_out(data, root, found)
    good: dict[str, list[Entry]] = {}
    chosen: list[Entry] = []
    for folder, layout in found.items():
        entries = layout.entries(root, folder)
        yield from layout.faults(root / folder, entries)
        good |= references_among(entries, data)
        if good.get(folder):
            chosen += [entry for entry in entries if split_of(entry, data) == split]
    num = data.num_train if split == "train" else data.num_test
    read = EntryReader(root, good, shrink_px=data.shrink_px, num_references=data.num_references, bits=data.bits)
    for entry in draw(chosen, num or len(chosen), np.random.default_rng([VERSION, seed])):
        yield from read(entry)


def files(data: DataConfig) -> Iterator[str]:
    """Paths, relative to `data.root`, of every image, mask and reference of the tree."""
    for entry in _entries(data):
        yield from (entry.path, *entry.masks, *entry.references)


def kinds(data: DataConfig) -> dict[str, dict[str, int]]:
    """Images of each type of defect, by category: what the labels say."""
    return kinds_of(_entries(data))


def left_out(data: DataConfig) -> Iterator[str]:
    """What the tree holds that is not read, in sentences: masks of no image, images without labels, other files."""
    root = Path(data.root).expanduser()
    others: collections.Counter[str] = collections.Counter()
    found = categories(data)
    places = {root / folder for folder in found}
    for parent in sorted({place.parent for place in places if place != root}):
        for here in sorted(path for path in parent.iterdir() if path.is_dir() and path not in places):
            if not any(here in place.parents for place in places) and (count := len(images_below(here))):
                yield f"{shown(here)}: {count} images are not read: it has no folder {GOOD_NAMES[0]}"
    for folder, layout in found.items():
        yield from layout.left_out(root, folder, layout.entries(root, folder))
        for path in files_below(root / folder):
            if path.is_symlink() and not path.exists():
                yield f"{shown(path)}: is a link to nothing"
            elif path.suffix.lower() in _UNREAD and path.suffix.lower() not in SUFFIXES:
                others[path.suffix.lower()] += 1
    yield from _untold(data)
    for suffix, count in sorted(others.items()):
        extra = "; pip install 'sage-jax[heic]' reads them" if suffix in (".heic", ".heif") else ""
        yield f"{root}: {count} files *{suffix} are not read; images are read as {', '.join(SUFFIXES)}{extra}"


_UNREAD: Final = (".heic", ".heif", ".avif", ".gif", ".jp2", ".raw", ".dng", ".npy", ".dcm", "")
"""Suffixes of files that hold images, or may, in formats that are not read."""


def _untold(data: DataConfig) -> Iterator[str]:
    """What metrics on the test split cannot tell, because it holds too few good or too few defective images."""
    entries = [entry for entry in _entries(data) if split_of(entry, data) == "test"]
    counts = {good: sum(entry.good == good for entry in entries) for good in (True, False)}
    for good, number in counts.items():
        if number < _FEW:
            name, cannot = ("good", "false alarms") if good else ("defective", "escapes, kinds and places")
            yield (
                f"{data.root}: {number} {name} images are kept for testing, so the metrics tell"
                f" {'nothing' if number == 0 else 'little'} of {cannot}"
                + (", and AUROC is unknown" if number == 0 else "")
            )


_FEW: Final = 10
"""Test images of one side below which the metrics' intervals are too wide to choose by."""


def _entries(data: DataConfig) -> list[Entry]:
    root = Path(data.root).expanduser()
    return [entry for folder, layout in categories(data).items() for entry in layout.entries(root, folder)]


def _layout_of(here: Path, data: DataConfig) -> Layout | None:
    """The published layout of a category's folder; with `data.source=folder`, else a user's own."""
    fits = OWN.fits_alone if here == Path(data.root).expanduser() else OWN.fits
    return layout_of(here) or (OWN if data.source == "folder" and fits(here) else None)


def categories(data: DataConfig) -> dict[str, Layout]:
    """Layout of each category's folder by its path below the root, "." where the root is one itself.

    Raises:
      FolderLayoutError: There is none.
    """
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise FolderLayoutError(
            f"{root} is no folder: set data.root to a category's folder, or to a folder of categories"
        )
    itself = _layout_of(root, data)
    if itself is not None:
        return {".": itself}
    below = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    found = {path.name: layout for path in below if (layout := _layout_of(path, data)) is not None}
    _refuse_splits(root, found)
    found = found or _of_domains(root)
    if not found and data.source == "folder":
        raise FolderLayoutError(
            f"{root} holds no images, and no folder named {', '.join(GOOD_NAMES)}: put photographs of good parts"
            " into one, and those of defects beside it, into folders with the names of their kinds"
        )
    if not found:
        raise FolderLayoutError(
            f"{root} holds no <category>/train and <category>/test: set data.root to an MVTec-style tree"
        )
    return found


def _refuse_splits(root: Path, found: Mapping[str, Layout]) -> None:
    """Refuses folders of a user's own that are named as splits: as categories, those for testing would train too.

    Raises:
      SplitFoldersError: There are some.
    """
    splits = [name for name, layout in found.items() if layout is OWN and is_split(name)]
    if splits:
        wrong = [name for name in splits if is_for_testing(name)]
        score = f"; score on {' and '.join(wrong)} apart, with stages=evaluate and evaluate.name" if wrong else ""
        several = f"{', '.join(splits)} are named as splits, and would all train, as categories"
        one = f"{splits[0]} is named as a split, and would train, as a category"
        raise SplitFoldersError(
            f"{root}: {several if len(splits) > 1 else one}: lay them out as train/good, test/good and test/<defect>,"
            f" or set data.root to the one that is to train{score}"
        )


def _of_domains(root: Path) -> dict[str, Layout]:
    """MANTA's categories, which lie in folders of their domains."""
    layout, base = MantaFolders(), root / "ImageData" if (root / "ImageData").is_dir() else root
    inside = sorted(path for path in base.glob("[!.]*/[!.]*") if path.is_dir())
    return {path.relative_to(root).as_posix(): layout for path in inside if layout.fits(path)}


def _check_held_out(data: DataConfig, root: Path, folders: Iterable[str]) -> None:
    names = {words(root.resolve().name if folder == "." else PurePosixPath(folder).name) for folder in folders}
    for name in data.held_out:
        if words(name) not in names:
            raise FolderLayoutError(
                f"data.held_out: {data.root} has no category {name!r}; it has {', '.join(sorted(names))}"
            )
