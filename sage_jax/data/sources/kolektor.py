"""KolektorSDD and KolektorSDD2: a mask beside every image, and an image is good where its mask is empty.

KolektorSDD    kos01/Part0.jpg, kos01/Part0_label.bmp; a folder for each of 50 pieces, no split
KolektorSDD2   {train,test}/10000.png, {train,test}/10000_GT.png
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from sage_jax.data.images import ImageFault, decode_mask
from sage_jax.data.records import Fault
from sage_jax.data.sources.entries import GOOD_NAMES, Entry, shown
from sage_jax.data.sources.tree_files import entry_of, folders_of, images_below, named, relative_to

_SPLITS: Final = ("train", "test")
_PIECE: Final = re.compile(r"kos\d+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class MaskBesideImage:
    """The layout of one of the two sets.

    Attributes:
      end: What the name of a mask has behind that of its image.
      split: Whether the folders are `train` and `test`; else each is a piece, whose images stay in one split.
    """

    name: str
    end: str
    split: bool

    def fits(self, here: Path) -> bool:
        """Whether a folder is the data set: one of its folders holds a mask beside an image."""
        return any(self._is_mask(path) for folder in self._folders(here) for path in (here / folder).iterdir())

    def entries(self, root: Path, folder: str) -> list[Entry]:
        """The images that have a mask; `faults` tells the others."""
        here, found = root / folder, []
        for name in self._folders(here):
            home: Literal["train", "test", "either"] = "either"
            if self.split:
                home = "train" if name == "train" else "test"
            for path in self._images(here / name):
                if masks := self._masks_of(path):
                    defective = not _is_empty(masks[0])
                    entry = entry_of(root, folder, path, "defect" if defective else GOOD_NAMES[0])
                    kept = relative_to(root, masks) if defective else ()
                    group = "" if self.split else entry.key.rpartition("/")[0]
                    found.append(dataclasses.replace(entry, home=home, masks=kept, group=group))
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        """Images without a mask, splits without images, and the lack of good ones."""
        folders = self._folders(here)
        for name in _SPLITS if self.split else ():
            if name not in folders or not self._images(here / name):
                yield Fault(str(here / name), None, "has no image", "complete the data set")
        if entries and not any(entry.good and entry.home != "test" for entry in entries):
            yield Fault(str(here), None, "has no good image to train on and compare with", "complete the data set")
        for name in folders:
            for path in self._images(here / name):
                if not self._masks_of(path):
                    cure = f"add {path.stem}{self.end}, empty where the image is good, or leave the image out"
                    yield Fault(shown(path), None, "has no mask, which says whether it is good", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        """Masks of no image."""
        here = root / folder
        for name in self._folders(here):
            for path in images_below(here / name):
                if self._is_mask(path) and not named(path.parent, (path.stem.removesuffix(self.end),)):
                    yield f"{shown(path)}: is the mask of no image under {here / name}"

    def _folders(self, here: Path) -> list[str]:
        names = folders_of(here)
        return sorted(name for name in names if (name in _SPLITS if self.split else _PIECE.fullmatch(name)))

    def _is_mask(self, path: Path) -> bool:
        return path.stem.endswith(self.end)

    def _images(self, folder: Path) -> list[Path]:
        return [path for path in images_below(folder) if not self._is_mask(path)]

    def _masks_of(self, path: Path) -> list[Path]:
        return named(path.parent, (f"{path.stem}{self.end}",))


def _is_empty(mask: Path) -> bool:
    """Whether a mask marks nothing; one that cannot be read may mark something, and is told where it is read."""
    try:
        about = mask.stat()
        return _marks_nothing(mask, about.st_mtime_ns, about.st_size)
    except OSError:
        return False


@functools.lru_cache(maxsize=2**16)
def _marks_nothing(mask: Path, changed_ns: int, size: int) -> bool:
    del changed_ns, size  # a file that is replaced is another one
    try:
        return not decode_mask(mask.read_bytes(), name=mask.name).any()
    except ImageFault:
        return False
