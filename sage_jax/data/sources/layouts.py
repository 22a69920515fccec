"""Folder layouts of public data sets, each listed as entries: MVTec AD and its like, MVTec AD 2, VisA, DAGM 2007.

Those of Kolektor's sets and of MANTA stand in files of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sage_jax.data.records import Fault
from sage_jax.data.sources.entries import GOOD_NAMES, Entry, shown
from sage_jax.data.sources.kolektor import MaskBesideImage
from sage_jax.data.sources.manta_images import MantaFolders
from sage_jax.data.sources.tree_files import (
    ALL_SUFFIXES,
    REFERENCE_FOLDERS,
    Layout,
    entry_of,
    folders_of,
    images_below,
    named,
    orphans,
    relative_to,
)


@dataclasses.dataclass(frozen=True)
class LabelFolders:
    """`train/<good>`, `test/<good or defect>`, and a folder of masks; a folder's name is the label of its images.

    Attributes:
      test: The folder of labelled test images.
      masks: The folder of masks: `<defect>/<stem>_mask.*`, `<defect>/<stem>.*`, or a folder `<defect>/<stem>` of masks.
      unlabelled: Folders of images that nobody but the authors has labels of.
    """

    name: str
    test: str = "test"
    masks: str = "ground_truth"
    unlabelled: tuple[str, ...] = ()
    train: tuple[str, ...] = ("train", "validation")

    def fits(self, here: Path) -> bool:
        return {"train", self.test} <= folders_of(here)

    def entries(self, root: Path, folder: str) -> list[Entry]:
        here, found = root / folder, []
        for name in (*self.train, self.test):
            for path in self._labelled(here, name):
                label = path.relative_to(here).parts[1]
                good, training = label.lower() in GOOD_NAMES, name != self.test
                if training and not good:
                    continue  # told by `faults`
                masks = () if good else self._masks_of(here, label, path.stem)
                found.append(
                    dataclasses.replace(
                        entry_of(root, folder, path, label),
                        home="train" if training else "test" if good else "either",
                        masks=relative_to(root, masks),
                        mask_path=(Path(folder) / self.masks / label / f"{path.stem}_mask.png").as_posix(),
                    )
                )
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        training = [entry for entry in entries if entry.home == "train"]
        if not training:
            cure = f"put good images into {here / 'train' / 'good'}"
            yield Fault(str(here / "train"), None, "has no good image to train on and compare with", cure)
        if len(training) == len(entries):
            cure = f"put images into {self.test}/good and {self.test}/<defect>"
            yield Fault(str(here / self.test), None, "has no image in any folder", cure)
        for name in (*self.train, self.test):
            for path in images_below(here / name):
                label = path.relative_to(here / name).parts[0]
                if path.parent != here / name:
                    if name != self.test and label.lower() not in GOOD_NAMES:
                        cure = f"move it to {self.test}/{label}; name the folder good if its parts are all good ones"
                        problem = f"is in {label!r}, but training images are good ones"
                        yield Fault(shown(path), None, problem, cure)
                else:
                    other = f"{name}/<defect>" if name == self.test else f"to {self.test}/<defect> if it has a defect"
                    cure = f"move it to {name}/good or {other}"
                    yield Fault(shown(path), None, "lies in no folder that says what it shows", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        here = root / folder
        for name in self.unlabelled:
            if count := len(images_below(here / name)):
                yield f"{here / name}: {count} images without public labels are not used"
        read = {*self.train, self.test, *self.unlabelled, self.masks.split("/")[0], *REFERENCE_FOLDERS}
        for name in sorted(folders_of(here) - read):
            if count := len(images_below(here / name)):
                yield f"{here / name}: {count} images are not read; read are {', '.join(self.train)} and {self.test}"
        yield from orphans(root, images_below(here / self.masks), entries, here / self.test)

    def _labelled(self, here: Path, name: str) -> Iterator[Path]:
        for path in images_below(here / name):
            label = path.relative_to(here / name).parts[0]
            if path.parent != here / name and f"{name}/{label}" != self.masks:
                yield path

    def _masks_of(self, here: Path, label: str, stem: str) -> list[Path]:
        folder = here / self.masks / label
        paths = [folder / f"{stem}{end}{suffix}" for end in ("_mask", "") for suffix in ALL_SUFFIXES]
        return [path for path in paths if path.is_file()][:1] or images_below(folder / stem)


@dataclasses.dataclass(frozen=True)
class VisaFolders:
    """VisA as published: `Data/Images/{Normal,Anomaly}` and `Data/Masks/Anomaly`; without its lists, no split."""

    name: str = "VisA"

    def fits(self, here: Path) -> bool:
        names = folders_of(here)
        return "Data" in names and not names & {"train", "test"}

    def entries(self, root: Path, folder: str) -> list[Entry]:
        images, found = root / folder / "Data" / "Images", []
        for label in ("Normal", "Anomaly"):
            for path in images_below(images / label):
                masks = () if label == "Normal" else named(root / folder / "Data" / "Masks" / label, (path.stem,))
                entry = entry_of(root, folder, path, label.lower())
                found.append(dataclasses.replace(entry, masks=relative_to(root, masks)))
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        if not any(entry.good for entry in entries):
            cure = "complete the data set, or set data.root elsewhere"
            yield Fault(str(here / "Data" / "Images" / "Normal"), None, "has no good image to compare with", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        here = root / folder / "Data"
        yield from orphans(root, images_below(here / "Masks"), entries, here / "Images" / "Anomaly")


@dataclasses.dataclass(frozen=True)
class DagmFolders:
    """DAGM 2007: `{Train,Test}/<number>.PNG`, defective where `Label/<number>_label.PNG` marks an ellipse."""

    name: str = "DAGM 2007"

    def fits(self, here: Path) -> bool:
        return {"Train", "Test"} <= folders_of(here)

    def entries(self, root: Path, folder: str) -> list[Entry]:
        found = []
        for name in ("Train", "Test"):
            here = root / folder / name
            for path in images_below(here):
                if path.parent != here:
                    continue
                masks = named(here / "Label", (f"{path.stem}_label",))
                entry = entry_of(root, folder, path, "defect" if masks else GOOD_NAMES[0])
                home = "train" if name == "Train" else "test"
                found.append(dataclasses.replace(entry, home=home, masks=relative_to(root, masks)))
        return found

    def faults(self, here: Path, entries: Sequence[Entry]) -> Iterator[Fault]:
        for name in ("Train", "Test"):
            if not (here / name / "Label").is_dir():
                cure = "DAGM 2007 has Train/Label and Test/Label with the masks; a tree like MVTec's has train and test"
                yield Fault(str(here / name), None, "has no folder Label", cure)

    def left_out(self, root: Path, folder: str, entries: Sequence[Entry]) -> Iterator[str]:
        for name in ("Train", "Test"):
            here = root / folder / name
            yield from orphans(root, images_below(here / "Label"), entries, here)


LAYOUTS: Final[tuple[Layout, ...]] = (
    MantaFolders(),
    MaskBesideImage("KolektorSDD2", end="_GT", split=True),
    MaskBesideImage("KolektorSDD", end="_label", split=False),
    LabelFolders("MVTec AD"),
    LabelFolders(
        "MVTec AD 2",
        test="test_public",
        masks="test_public/ground_truth",
        unlabelled=("test_private", "test_private_mixed"),
    ),
    VisaFolders(),
    DagmFolders(),
)
"""In the order in which they are tried: what looks like MVTec AD at first sight stands before it."""


def layout_of(here: Path) -> Layout | None:
    """The layout of a category's folder; None if it is none of the published ones."""
    return next((layout for layout in LAYOUTS if layout.fits(here)), None)
