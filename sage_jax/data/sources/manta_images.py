"""MANTA's images: `ImageData/<domain>/<category>/<split>/<defect>/<domain>_<category>_<id>.png`.

The splits are `train` and one or more whose names begin with `test` (`test`, `test-pixel`); good images are in `good`.
Where places are labelled, a split has a folder of masks beside those of its defects. Other images have a kind alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sage_jax.data.images import SUFFIXES
from sage_jax.data.records import Fault
from sage_jax.data.sources.entries import Entry, shown
from sage_jax.data.sources.tree_files import (
    entry_of,
    folders_of,
    images_below,
    named,
    orphans,
    relative_to,
    without_masks,
)

MASK_FOLDERS: Final = ("mask", "masks", "ground_truth")
"""Folders of a split, or of a category, that hold masks."""


@dataclasses.dataclass(frozen=True)
class MantaFolders:
    """The layout of one category; see the module."""

    name: str = "MANTA"

    def fits(self, here: Path) -> bool:
        """Whether a folder is a category's: its training images bear the names of domain and category."""
        splits = _splits(here)
        if "train" not in splits or len(splits) < 2:
            return False
        whole = here.resolve()
        begin = f"{whole.parent.name}_{whole.name}_".lower()
        images = (path for path in (here / "train").rglob("*") if path.suffix.lower() in SUFFIXES)
        first = next((path for path in images if not path.name.startswith(".")), None)
        return "test-pixel" in splits or (first is not None and first.name.lower().startswith(begin))

    def entries(self, root: Path, folder: str) -> list[Entry]:
        """The labelled images; a defective one of a test split goes to training or testing by the hash of its path."""
        here, found = root / folder, []
        for split in _splits(here):
            for path in _images(here / split):
                label = path.relative_to(here / split).parts[0]
                if path.parent != here / split:
                    entry = entry_of(root, folder, path, label)
                    home = "train" if split == "train" else "test" if entry.good else "either"
                    masks = () if entry.good else relative_to(root, _masks_of(here, split, label, path.stem))
                    found.append(dataclasses.replace(entry, home=home, masks=masks, mask_needed=False))
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        """Images that no folder tells about, and the lack of good ones."""
        if not any(entry.good and entry.home == "train" for entry in entries):
            cure = "complete the data set"
            yield Fault(str(here / "train"), None, "has no good image to train on and compare with", cure)
        for split in _splits(here):
            for path in _images(here / split):
                if path.parent == here / split:
                    cure = f"move it to {split}/good or {split}/<defect>"
                    yield Fault(shown(path), None, "lies in no folder that says what it shows", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        """Masks of no image, and how many defective images have none."""
        here = root / folder
        for home in (here, *(here / split for split in _splits(here))):
            for name in sorted(folders_of(home) & set(MASK_FOLDERS)):
                yield from orphans(root, images_below(home / name), entries, home)
        yield from without_masks(here, entries)


def _splits(here: Path) -> list[str]:
    names = folders_of(here)
    return sorted(names & {"train"}) + sorted(name for name in names if name.lower().startswith("test"))


def _images(split: Path) -> list[Path]:
    return [path for path in images_below(split) if path.relative_to(split).parts[0] not in MASK_FOLDERS]


def _masks_of(here: Path, split: str, label: str, stem: str) -> list[Path]:
    """The mask of an image: in a folder of masks of its split or category, under its label or not."""
    for home in (here / split, here):
        for name in MASK_FOLDERS:
            for folder in (home / name / label, home / name):
                if found := named(folder, (f"{stem}_mask", stem)):
                    return found
    return []
