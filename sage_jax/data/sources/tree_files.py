"""Files of a tree of images: what a layout is, and how its images, masks and references are found and listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from sage_jax.data.images import SUFFIXES
from sage_jax.data.records import Fault
from sage_jax.data.sources.entries import Entry, shown, words


class Layout(Protocol):
    """How the folder of a category is laid out."""

    @property
    def name(self) -> str: ...

    def fits(self, here: Path) -> bool:
        """Whether a folder is a category's. Names count as they are written, on any file system."""
        ...

    def entries(self, root: Path, folder: str) -> list[Entry]:
        """The labelled images of a category."""
        ...

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        """What is wrong with a category as a whole."""
        ...

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        """What a category holds beside its labelled images and their masks, in sentences."""
        ...


REFERENCE_FOLDERS: Final = ("references", "reference")
"""Folders of a category with good images of the part that each of its others shows: a file, or a folder of several, of
the image's name."""

ALL_SUFFIXES: Final = SUFFIXES + tuple(suffix.upper() for suffix in SUFFIXES)


def folders_of(here: Path) -> set[str]:
    """Names of the folders in a folder; none where it is none itself."""
    return {path.name for path in here.iterdir() if path.is_dir()} if here.is_dir() else set()


def images_below(folder: Path) -> list[Path]:
    """Every image file under a folder, sorted; hidden files and what lies in hidden folders do not count.

    Programs leave such copies beside the real images (macOS, `.ipynb_checkpoints`).
    """
    return [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]


def files_below(folder: Path) -> list[Path]:
    """Every file or link to one under a folder, sorted, hidden ones left out."""
    if not folder.is_dir():
        return []
    shown_ones = (
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted(path for path in shown_ones if not path.is_dir())


def entry_of(root: Path, folder: str, path: Path, label: str) -> Entry:
    """The entry of an image of a category, with the references of its own; masks and home are the layout's to add."""
    category = root.resolve().name if folder == "." else PurePosixPath(folder).name
    below = path.relative_to(root / folder)
    own = relative_to(root, _own_references(root / folder, below))
    key = f"{category}/{below.as_posix()}"
    name = path.relative_to(root).as_posix()
    return Entry(folder, words(category), label, name, key, "either", references=own)


def _own_references(here: Path, below: Path) -> list[Path]:
    """The good images that were put beside one image of a category: of its path or name, in `references/`."""
    for name in REFERENCE_FOLDERS:
        folder = here / name
        if folder.is_dir() and below.parts[0] != name:
            for home in (folder / below.parent, folder):
                if found := named(home, (below.stem,)) or images_below(home / below.stem):
                    return found
    return []


def named(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """The first image file of a folder that bears one of these names, in their order; none where there is none."""
    paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in ALL_SUFFIXES)
    return [path for path in paths if path.is_file()][:1]


def relative_to(root: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """The paths as they stand in an entry."""
    return tuple(path.relative_to(root).as_posix() for path in paths)


def orphans(root: Path, masks: Sequence[Path], entries: Sequence[Entry], images: Path) -> Iterator[str]:
    """The masks that belong to none of the entries."""
    used = {mask for entry in entries for mask in entry.masks}
    for path in masks:
        if path.relative_to(root).as_posix() not in used:
            yield f"{shown(path)}: is the mask of no image under {images}"


def without_masks(here: Path, entries: Sequence[Entry]) -> Iterator[str]:
    """How many defective images of a category have no mask, in a sentence."""
    defective = [entry for entry in entries if not entry.good]
    unmarked = [entry for entry in defective if not entry.masks]
    if unmarked:
        yield (
            f"{here}: {len(unmarked)} of {len(defective)} defective images, such as {unmarked[0].path}, have no"
            " mask: verdicts and kinds are learnt from them, places are not"
        )
