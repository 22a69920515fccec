"""Images that a data set labels, before they are read: how they are divided, drawn and given references and masks."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from sage_jax.axes import Bool
from sage_jax.config import DataConfig
from sage_jax.data.depth import at_depth
from sage_jax.data.images import ImageFault, decode_mask, decode_rgb, encode_png, read_inside, shrink
from sage_jax.data.records import NOWHERE, AnnotatedImage, Box, Defect, Fault, Reference

GOOD_NAMES: Final = ("good", "ok", "normal")
_SPECK_SHARE: Final = 0.02  # of the largest component: smaller ones stay in the mask but are no defect of their own


@dataclasses.dataclass(frozen=True)
class Entry:
    """A labelled image of a data set: its path and its category's folder relative to the root, and its label.

    Attributes:
      folder: Folder of the category, "." where the root is one category.
      category: The folder's name as words ("metal nut").
      label: What the image shows ("good", "broken_large").
      path: The file, relative to the root.
      key: The file below its category's name, the same whether the root is the category or its parent.
      home: The part of the data set that its authors put it in; `either` where a hash decides.
      masks: Paths of its masks, relative to the root; empty for a good image.
      mask_path: Where a mask of it would be looked for, relative to the root.
      mask_needed: Whether a defective image without a mask is a fault; else its label alone is known.
      references: The good images to compare it with, relative to the root; none = any good ones of its category.
      line: Line of the list that it stands in, where the data set is a list.
      list_file: That list; "" = the data set is none, and faults are told at the images themselves.
      group: What it shares with images that must not be divided, such as those of one piece; "" = nothing. Its hash
        decides where a hash does, else that of the key.
    """

    folder: str
    category: str
    label: str
    path: str
    key: str
    home: Literal["train", "test", "either"]
    masks: tuple[str, ...] = ()
    mask_path: str = ""
    mask_needed: bool = True
    references: tuple[str, ...] = ()
    line: int | None = None
    list_file: str = ""
    group: str = ""

    @property
    def good(self) -> bool:
        return self.label.lower() in GOOD_NAMES


def words(name: str) -> str:
    """A folder's name as words."""
    return name.replace("_", " ").strip()


def split_of(entry: Entry, data: DataConfig) -> Literal["train", "test", "neither"]:
    """Where an image belongs; of held-out categories, what would else train is for references only.

    Defective images of held-out categories are all for testing.
    """
    own = entry.home
    if own == "either":
        own = "test" if _share(entry.group or entry.key) < data.test_fraction else "train"
    if not data.held_out:
        return own
    if entry.category not in {words(name) for name in data.held_out}:
        return "train"
    return "neither" if own == "train" and (entry.good or entry.home == "train") else "test"


def references_among(entries: Sequence[Entry], data: DataConfig) -> dict[str, list[Entry]]:
    """The good images of each category's folder that others are compared with: none of the test images.

    Of images that their authors gave for testing, none is a reference, though held-out categories make them train.
    """
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.good and entry.home != "test" and split_of(entry, data) != "test":
            found.setdefault(entry.folder, []).append(entry)
    return found


def draw(entries: Sequence[Entry], num: int, rng: np.random.Generator) -> list[Entry]:
    """`num` of the images, good and defective by turns, each in turn from every category and type."""
    sides: list[list[Entry]] = []
    for good in (True, False):
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            if entry.good == good:
                groups.setdefault((entry.category, "" if good else entry.label), []).append(entry)
        for group in groups.values():
            order = rng.permutation(len(group))
            group[:] = [group[index] for index in order]
        sides.append(_by_turns(list(groups.values())))
    return _by_turns(sides)[:num]


def kinds_of(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Images of each type of defect, by category: what the labels say."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        counts = found.setdefault(entry.category, {})
        if not entry.good:
            name = words(entry.label)
            counts[name] = counts.get(name, 0) + 1
    return found


def defects_of(mask: Bool[np.ndarray, "H W"], kind: str) -> tuple[Defect, ...]:
    """The defects of a mask, one for each connected component (8 neighbours), largest first; specks left out."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3, 3), np.int8), output=labels)
    if not labels.any():
        return ()
    areas = np.bincount(labels.ravel())[1:]
    windows = ndimage.find_objects(labels)
    defects = []
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] < _SPECK_SHARE * areas.max():
            break
        rows, columns = windows[index]
        defects.append(Defect(kind, Box(columns.start, rows.start, columns.stop, rows.stop)))
    return tuple(defects)


class EntryReader:
    """Reads entries into annotated images.

    The references of an image are good ones of its category, the first chosen by a hash of its path, never itself. A
    good image that cannot be decoded is told once and costs itself alone: the next one stands in for it.
    """

    def __init__(
        self,
        root: Path,
        good: dict[str, list[Entry]],
        *,
        shrink_px: int = 0,
        num_references: int = 1,
        bits: int = 0,
    ) -> None:
        """What it reads from.

        Args:
          shrink_px: The longer side that larger images are shrunk to, with their masks; 0 = none are.
          num_references: Most references of an image.
          bits: Depth of wide images that state none (`at_depth`).
        """
        self.root, self.good, self.shrink_px = root, good, shrink_px
        self.num_references, self.bits = num_references, bits
        self._usable: dict[str, Fault | None] = {}

    def __call__(self, entry: Entry) -> Iterator[AnnotatedImage | Fault]:
        """The annotated image of an entry, or why there is none; and what was wrong with references tried for it."""
        try:
            test_image = self._read(entry.path)
            mask = self._mask(entry, test_image)
        except ImageFault as error:
            yield self._fault(entry, error)
            return
        defects = (Defect(words(entry.label), NOWHERE),) if mask is None else defects_of(mask, words(entry.label))
        if mask is not None and not entry.good and (not defects or mask.all()):
            yield self._meaningless(entry, empty=not defects)
            return
        references: list[Reference] = []
        for other in self._references(entry):
            fault = self._fault_of(other)
            if fault is None:
                references.append(Reference(self._read(other.path), other.path))
                if len(references) == self.num_references:
                    break
            else:
                yield fault
        first = references[0] if references else Reference(b"", "")
        yield AnnotatedImage(
            image_id=entry.path if entry.list_file else entry.key,
            test_image=test_image,
            reference_image=first.image or None,
            category=entry.category,
            defects=defects,
            mask=None if mask is None else encode_png(mask),
            test_path=entry.path,
            reference_path=first.path,
            further_references=tuple(references[1:]),
        )

    def _read(self, name: str) -> bytes:
        """An image, shrunk where it is larger than `shrink_px`.

        Raises:
          ImageFault: It cannot be read.
        """
        content = at_depth(read_inside(self.root, name), self.bits, name=name)
        if self.shrink_px == 0:
            return content
        pixels = decode_rgb(content, name=name)
        return encode_png(shrink(pixels, self.shrink_px)) if max(pixels.shape[:2]) > self.shrink_px else content

    def _references(self, entry: Entry) -> Iterator[Entry]:
        """The entry's own references; without one that can be read, good images, first the one its path chooses.

        An image is no reference of itself.
        """
        own = [dataclasses.replace(entry, path=path) for path in entry.references]
        yield from own
        if any(self._fault_of(each) is None for each in own):
            return
        others = [other for other in self.good.get(entry.folder, ()) if other.path != entry.path]
        first = int(_share(f"reference of {entry.key}") * len(others))
        yield from others[first:] + others[:first]

    def _fault_of(self, entry: Entry) -> Fault | None:
        """What keeps a good image from being a reference; found out once."""
        if entry.path not in self._usable:
            try:
                decode_rgb(read_inside(self.root, entry.path), name=entry.path)
                self._usable[entry.path] = None
            except ImageFault as error:
                self._usable[entry.path] = self._fault(entry, error)
        return self._usable[entry.path]

    def _fault(self, entry: Entry, error: ImageFault) -> Fault:
        if entry.list_file:
            return Fault(entry.list_file, entry.line, f"{error.name} {error.problem}", error.cure)
        return Fault(shown(self.root / error.name), None, error.problem, error.cure)

    def _meaningless(self, entry: Entry, *, empty: bool) -> Fault:
        """What is wrong with a mask that marks nothing, or all there is."""
        wrong = "is empty" if empty else "marks every pixel of the image"
        if entry.list_file:
            problem = f"{entry.path} is defective, but its mask {entry.masks[0]} {wrong}"
            cure = "mark the defect, or call the image good" if empty else "mark the defect alone"
            return Fault(entry.list_file, entry.line, problem, cure)
        cure = "mark the defect, or move the image to the good ones" if empty else "mark the defect alone (0 is good)"
        return Fault(shown(self.root / entry.path), None, f"is in {entry.label!r}, but its mask {wrong}", cure)

    def _mask(self, entry: Entry, test_image: bytes) -> Bool[np.ndarray, "H W"] | None:
        """The union of an image's masks; None where it is not known.

        Raises:
          ImageFault: A defective image has none where it needs one, one cannot be read, or they differ in size.
        """
        if entry.good:
            return np.zeros(decode_rgb(test_image, name=entry.path).shape[:2], np.bool_)
        if not entry.masks and not entry.mask_needed:
            return None
        if not entry.masks:
            cure = f"add {entry.mask_path or 'its mask'}, or leave the image out"
            raise ImageFault(entry.path, "is defective but has no mask", cure)
        masks = []
        for name in entry.masks:
            masks.append(shrink(decode_mask(read_inside(self.root, name), name=name), self.shrink_px))
            if masks[-1].shape != masks[0].shape:
                raise ImageFault(name, "differs in size from the image's other masks", "export the masks at one size")
        return np.logical_or.reduce(masks)


def shown(path: Path) -> str:
    """A path as text: a name that is none gets its bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8]) / 2**64  # a file name need not be text


def _by_turns(groups: Sequence[Sequence[Entry]]) -> list[Entry]:
    """First of each group, then second of each, and so on; ended groups are passed over."""
    longest = max(map(len, groups), default=0)
    return [group[index] for index in range(longest) for group in groups if index < len(group)]
