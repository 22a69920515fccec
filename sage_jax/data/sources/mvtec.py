"""MVTec-style trees: `<category>/train/good`, `test/<good or defect>` and `ground_truth/<defect>` with masks.

MVTec AD, MPDD, GoodsAD, VisA's one-class copy (`bad`), MVTec LOCO (`validation`, several masks an image), BTAD (`ok`,
`ko`), and any folder of a user's own in this shape. The root is one category or a folder of them.
"""

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
from sage_jax.data.images import SUFFIXES, ImageFault, decode_mask, decode_rgb, encode_png, read_inside
from sage_jax.data.records import AnnotatedImage, Box, Defect, Fault
from sage_jax.errors import UserError

VERSION: Final = 1
GOOD_NAMES: Final = ("good", "ok", "normal")
_TRAIN_FOLDERS: Final = ("train", "validation")
_SPECK_SHARE: Final = 0.02  # of the largest component: smaller ones stay in the mask but are no defect of their own


class FolderLayoutError(UserError):
    """A folder that is no MVTec-style tree, or a category that it does not have."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image of the tree: its path and its category's folder relative to the root, and its label.

    Attributes:
      folder: Folder of the category, "." where the root is one category.
      category: The folder's name as words ("metal nut").
      label: Name of the folder that the image is in ("good", "broken_large").
      path: The file, relative to the root.
      key: The file below its category's name, the same whether the root is the category or its parent.
    """

    folder: str
    category: str
    label: str
    path: str
    key: str

    @property
    def good(self) -> bool:
        return self.label.lower() in GOOD_NAMES


def read_images(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[AnnotatedImage | Fault]:
    """Annotated images of an MVTec-style tree.

    The tree's own training folder holds no defect, so nobody could learn from it to answer a question about one. So
    the defective images of `test/` are divided by a hash of their path, which no seed changes: a share
    `data.test_fraction` for testing, the rest, with the good images of `train/`, for training; the good images of
    `test/` are for testing. With `data.held_out`, whole categories are for testing (their `test/` folder; their
    training folder gives references only) and all of the others, `test/` included, is for training.

    The reference of an image is a good training image of its category, chosen by a hash of its path, never itself.
    Masks become boxes by connected components; the defect's type is the folder's name. With `data.num_train` or
    `data.num_test` above 0, that many images are drawn, good and defective in equal numbers and evenly over
    categories and types as far as there are enough. Either way good and defective images alternate.

    Raises:
      FolderLayoutError: The root is no such tree, or has none of the held-out categories.
    """
    root = Path(data.root).expanduser()
    good: dict[str, list[Entry]] = {}
    chosen: list[Entry] = []
    folders = _held_out_checked(data, _categories(root))
    for folder in folders:
        train, test = _entries(root, folder, _TRAIN_FOLDERS), _entries(root, folder, ("test",))
        good[folder] = [entry for entry in train if entry.good]
        yield from _folder_faults(root, folder, train, test)
        if not good[folder]:
            continue
        chosen += [entry for entry in good[folder] + test if split_of(entry, data) == split]
    num = data.num_train if split == "train" else data.num_test
    for entry in draw(chosen, num or len(chosen), np.random.default_rng([VERSION, seed])):
        yield _read(root, entry, good[entry.folder])


def files(root: Path) -> Iterator[str]:
    """Paths, relative to `root`, of every image and mask of the tree."""
    for folder in _categories(root):
        for name in (*_TRAIN_FOLDERS, "test", "ground_truth"):
            for path in _images(root / folder / name):
                yield path.relative_to(root).as_posix()


def kinds(root: Path) -> dict[str, dict[str, int]]:
    """Images of each type of defect, by category: what the folders' names say."""
    found: dict[str, dict[str, int]] = {}
    for folder in _categories(root):
        labels = [path for path in sorted((root / folder / "test").iterdir()) if path.is_dir()]
        named = {words(path.name): len(_images(path)) for path in labels if path.name.lower() not in GOOD_NAMES}
        category = words(root.resolve().name if folder == "." else folder)
        found[category] = {name: count for name, count in named.items() if count}
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


def _categories(root: Path) -> list[str]:
    """Folders of the root's categories, "." where it is one itself."""
    if not root.is_dir():
        raise FolderLayoutError(
            f"{root} is no folder: set data.root to a category's folder, or to a folder of categories"
        )
    if _is_category(root):
        return ["."]
    folders = sorted(path.name for path in root.iterdir() if not path.name.startswith(".") and _is_category(path))
    if not folders:
        raise FolderLayoutError(
            f"{root} holds no <category>/train and <category>/test: set data.root to an MVTec-style tree"
        )
    return folders


def _is_category(path: Path) -> bool:
    return (path / "train").is_dir() and (path / "test").is_dir()


def _held_out_checked(data: DataConfig, folders: Sequence[str]) -> Sequence[str]:
    names = {words(Path(data.root).expanduser().resolve().name if folder == "." else folder) for folder in folders}
    for name in data.held_out:
        if words(name) not in names:
            raise FolderLayoutError(
                f"data.held_out: {data.root} has no category {name!r}; it has {', '.join(sorted(names))}"
            )
    return folders


def words(name: str) -> str:
    """A folder's name as words."""
    return name.replace("_", " ").strip()


def _images(folder: Path) -> list[Path]:
    """Every image file under a folder, sorted; hidden files and what lies in hidden folders do not count.

    Programs leave such copies beside the real images (macOS, `.ipynb_checkpoints`).
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in shown if not path.is_dir())


def _entries(root: Path, folder: str, names: Sequence[str]) -> list[Entry]:
    """The images in the label folders of `<folder>/<name>`, for each of the names."""
    category = root.resolve().name if folder == "." else folder
    entries = []
    for name in names:
        for path in _images(root / folder / name):
            below = path.relative_to(root / folder)
            if len(below.parts) >= 3:
                key = f"{category}/{below.as_posix()}"
                entries.append(Entry(folder, words(category), below.parts[1], path.relative_to(root).as_posix(), key))
    return entries


def _folder_faults(root: Path, folder: str, train: Sequence[Entry], test: Sequence[Entry]) -> Iterator[Fault]:
    """What is wrong with a category as a whole."""
    place = root / folder
    if not any(entry.good for entry in train):
        cure = f"put good images into {place / 'train' / 'good'}"
        yield Fault(str(place / "train"), None, "has no good image to train on and compare with", cure)
    if not test:
        yield Fault(
            str(place / "test"), None, "has no image in any folder", "put images into test/good and test/<defect>"
        )
    for entry in train:
        if not entry.good:
            cure = f"move it to test/{entry.label}, or name the folder good"
            problem = f"is in {entry.label!r}, but training images are good ones"
            yield Fault(_shown(root / entry.path), None, problem, cure)
    for name in (*_TRAIN_FOLDERS, "test"):
        for path in _images(place / name):
            if path.parent == place / name:
                cure = f"move it to {name}/good" + (" or test/<defect>" if name == "test" else "")
                yield Fault(_shown(path), None, "lies in no folder that says what it shows", cure)


def _shown(path: Path) -> str:
    """A path as text: a name that is none gets its bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def split_of(entry: Entry, data: DataConfig) -> Literal["train", "test", "neither"]:
    """Where an image belongs; training images of held-out categories are references only."""
    training = entry.key.split("/")[1] in _TRAIN_FOLDERS
    if data.held_out:
        held_out = entry.category in {words(name) for name in data.held_out}
        if held_out:
            return "neither" if training else "test"
        return "train"
    if training:
        return "train"
    return "test" if entry.good or _share(entry.key) < data.test_fraction else "train"


def _share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8]) / 2**64  # a file name need not be text


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


def _by_turns(groups: Sequence[Sequence[Entry]]) -> list[Entry]:
    """First of each group, then second of each, and so on; ended groups are passed over."""
    longest = max(map(len, groups), default=0)
    return [group[index] for index in range(longest) for group in groups if index < len(group)]


def _read(root: Path, entry: Entry, good: Sequence[Entry]) -> AnnotatedImage | Fault:
    """The annotated image of an entry, or why there is none."""
    reference = reference_of(entry, good)
    try:
        test_image = read_inside(root, entry.path)
        reference_image = None if reference is None else read_inside(root, reference.path)
        if entry.good:
            mask = np.zeros(decode_rgb(test_image, name=entry.path).shape[:2], np.bool_)
        else:
            mask = _read_mask(root, entry)
    except ImageFault as error:
        return Fault(str(root / error.name), None, error.problem, error.cure)
    defects = defects_of(mask, words(entry.label))
    if not entry.good and not defects:
        cure = "mark the defect, or move the image to test/good"
        return Fault(str(root / entry.path), None, f"is in {entry.label!r}, but its mask is empty", cure)
    return AnnotatedImage(
        image_id=entry.key,
        test_image=test_image,
        reference_image=reference_image,
        category=entry.category,
        defects=defects,
        mask=encode_png(mask),
        test_path=entry.path,
        reference_path="" if reference is None else reference.path,
    )


def reference_of(entry: Entry, good: Sequence[Entry]) -> Entry | None:
    """A good training image other than the entry itself; None where there is no other."""
    others = [other for other in good if other.path != entry.path]
    return others[int(_share(f"reference of {entry.key}") * len(others))] if others else None


def _read_mask(root: Path, entry: Entry) -> Bool[np.ndarray, "H W"]:
    """The mask of a defective image, the union of several.

    `ground_truth/<defect>/` holds `<stem>_mask.*`, `<stem>.*`, or a folder `<stem>` of masks.

    Raises:
      ImageFault: There is none, one cannot be read, or they differ in size.
    """
    stem = Path(entry.path).stem
    folder = root / entry.folder / "ground_truth" / entry.label
    paths = [folder / f"{stem}{end}{suffix}" for end in ("_mask", "") for suffix in _suffixes()]
    found = [path for path in paths if path.is_file()][:1] or _images(folder / stem)
    if not found:
        cure = f"add {folder.relative_to(root).as_posix()}/{stem}_mask.png, or leave the image out"
        raise ImageFault(entry.path, "is defective but has no mask", cure)
    masks = []
    for path in found:
        name = path.relative_to(root).as_posix()
        masks.append(decode_mask(read_inside(root, name), name=name))
        if masks[-1].shape != masks[0].shape:
            raise ImageFault(name, "differs in size from the image's other masks", "export the masks at one size")
    return np.logical_or.reduce(masks)


def _suffixes() -> tuple[str, ...]:
    return SUFFIXES + tuple(suffix.upper() for suffix in SUFFIXES)
