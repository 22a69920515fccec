"""A folder of a user's own: good parts alone, or folders whose names say what their images show; masks are optional.

parts/*.png                     good parts alone
parts/{good,ok,OK,...}/         good parts; every other folder is a kind of defect ("scratch/", "bent pin/")
parts/masks/<kind>/<name>.png   masks, or `<name>_mask.png` there or beside the image; where they are known
parts/references/<name>.png     the good image that the image of this name is compared with, or a folder <name>/ of
                                several; else good ones of parts/ are chosen
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sage_jax.data.images import SUFFIXES
from sage_jax.data.records import Fault
from sage_jax.data.sources.entries import GOOD_NAMES, Entry, shown
from sage_jax.data.sources.tree_files import (
    REFERENCE_FOLDERS,
    entry_of,
    images_below,
    orphans,
    relative_to,
    without_masks,
)

MASK_FOLDERS: Final = ("masks", "mask", "ground_truth", "gt")
_MASK_END: Final = "_mask"


@dataclasses.dataclass(frozen=True)
class OwnFolders:
    """The layout of one category; see the module."""

    name: str = "a folder of one's own"

    def fits(self, here: Path) -> bool:
        """Whether a folder is a category's: it has a folder of good parts."""
        return here.is_dir() and bool(_good_folders(here))

    def fits_alone(self, here: Path) -> bool:
        """Whether a folder may be a category's where it is all there is: its images, in no folders, are good parts.

        Beside others, a folder without one of good parts may as well be a kind of defect.
        """
        return self.fits(here) or (here.is_dir() and _is_flat(here))

    def entries(self, root: Path, folder: str) -> list[Entry]:
        """The labelled images; each goes to training or testing by the hash of its path."""
        here = root / folder
        if not _good_folders(here):
            return [entry_of(root, folder, path, GOOD_NAMES[0]) for path in _images(here)]
        found = []
        for path in _images(here):
            label = path.relative_to(here).parts[0]
            if path.parent != here:
                entry = entry_of(root, folder, path, label)
                masks = () if entry.good else relative_to(root, _masks_of(here, path, label))
                found.append(dataclasses.replace(entry, masks=masks, mask_needed=False))
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        """Images that no folder tells about, and the lack of good ones."""
        if not any(entry.good for entry in entries):
            yield Fault(str(here), None, "has no good image to train on and compare with", "put some into its good/")
        if _good_folders(here):
            for path in _images(here):
                if path.parent == here:
                    cure = "move it to good/, or to a folder with the name of its defect"
                    yield Fault(shown(path), None, "lies in no folder that says what it shows", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        """Masks of no image, and defective images without a mask."""
        here = root / folder
        for name in _folders_named(here, MASK_FOLDERS):
            yield from orphans(root, images_below(here / name), entries, here)
        yield from without_masks(here, entries)


OWN: Final = OwnFolders()


def _folders_named(here: Path, names: Sequence[str]) -> list[str]:
    """The folders here that bear one of these names, in any case."""
    return sorted(path.name for path in here.iterdir() if path.is_dir() and path.name.lower() in names)


def _good_folders(here: Path) -> list[str]:
    return _folders_named(here, GOOD_NAMES)


def _is_flat(here: Path) -> bool:
    """Whether images lie in the folder itself, and none in a folder below it that would have to say what they show."""
    images = _images(here)
    return bool(images) and all(path.parent == here for path in images)


def _images(here: Path) -> list[Path]:
    """The images below a folder, without masks and without references."""
    beside = (*MASK_FOLDERS, *REFERENCE_FOLDERS)
    found = images_below(here)
    paths = set(found)
    return [
        path
        for path in found
        if path.relative_to(here).parts[0].lower() not in beside or path.parent == here
        if not (path.stem.endswith(_MASK_END) and _image_of(path) & paths)
    ]


def _image_of(mask: Path) -> set[Path]:
    """The files that a mask beside its image may belong to."""
    stem = mask.stem.removesuffix(_MASK_END)
    return {mask.with_name(f"{stem}{suffix}") for suffix in (*SUFFIXES, *(each.upper() for each in SUFFIXES))}


def _masks_of(here: Path, path: Path, label: str) -> list[Path]:
    """The mask of an image: in a folder of masks under its label and name, or under its name, or beside it."""
    below = path.relative_to(here / label).parent
    folders = [here / name for name in _folders_named(here, MASK_FOLDERS)]
    homes = [home for folder in folders for home in (folder / label / below, folder / below, folder)]
    stems = (f"{path.stem}{_MASK_END}", path.stem)
    named = [(home, stem) for home in homes for stem in stems] + [(path.parent, stems[0])]
    paths = (home / f"{stem}{suffix}" for home, stem in named for suffix in SUFFIXES)
    return [found for found in paths if found.is_file()][:1]
