"""What lies under `data.root`: the reader for a data set that is named, or for one that nobody named (`auto`)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sage_jax.config import ConfigError, DataConfig, Source
from sage_jax.data.sources import dataset_info, folders, foreign, listed, real_iad, row_files, row_kinds
from sage_jax.data.sources.deeppcb_boards import LISTS
from sage_jax.data.sources.entries import GOOD_NAMES
from sage_jax.data.sources.items import FormatError, Item, parse_items
from sage_jax.data.sources.own_folders import OWN
from sage_jax.data.sources.split_names import is_for_testing
from sage_jax.data.sources.tree_files import Layout, folders_of
from sage_jax.errors import UserError

LOOKED_FOR: Final = (
    "<category>/train/good and test (MVTec AD, LOCO, MPDD, GoodsAD, VisA's one-class copy)",
    "<category>/train/ok and test (BTAD)",
    "<category>/train/good and test_public (MVTec AD 2)",
    "<category>/Data/Images, or split_csv/1cls.csv (VisA)",
    "<class>/Train/Label (DAGM 2007)",
    "kos01/Part0_label.bmp (KolektorSDD)",
    "train/*_GT.png (KolektorSDD2)",
    "<domain>/<category>/train (MANTA)",
    "trainval.txt and test.txt (DeepPCB)",
    "<category>.json with meta, train and test (Real-IAD)",
    "meta.json (AnomalyCLIP, ADer)",
    "a JSON of AD-PL or of rows, or train.jsonl and test.jsonl",
    "a folder good, or images alone (a folder of one's own)",
)
"""What is read, by what it is known by."""

_TREES: Final[dict[str, tuple[Source, ...]]] = {
    "MVTec AD": ("mvtec_ad", "mpdd", "goodsad"),
    "MVTec AD with defects called bad": ("visa", "mvtec_ad", "mpdd", "goodsad"),
    "MVTec LOCO": ("loco",),
    "BTAD": ("btad",),
    "MVTec AD 2": ("mvtec_ad2",),
    "VisA": ("visa",),
    "DAGM 2007": ("dagm",),
    "KolektorSDD": ("ksdd",),
    "KolektorSDD2": ("ksdd2",),
    "MANTA": ("manta",),
}
"""Trees of folders, and the names of the data sets that have them, the likeliest first."""

_HAVE_IT_TOO: Final = {
    "MVTec AD": "MVTec AD (MPDD and GoodsAD have the same tree)",
    "MVTec AD with defects called bad": "MVTec AD with defects called bad (VisA's one-class copy)",
}
_LISTED: Final = 20
_SHOWN: Final = 4
_SCORE_ALONE: Final = "--config.stages=evaluate with evaluate.name scores a finished run on it"


class RecognitionError(UserError):
    """A data set that is none of those that are read, or another than the config names."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies under a root.

    Attributes:
      reader: What reads it.
      names: What it may be called in `data.source`, the likeliest first; never empty.
      title: What it is, as one says "is ...".
      root: What the reader takes as `data.root`.
    """

    reader: Source
    names: tuple[Source, ...]
    title: str
    root: str


def with_reader(data: DataConfig, *, field: str = "data.source") -> tuple[DataConfig, str]:
    """The data config with a reader as its source, and what was recognised, as a sentence; "" where a reader was named.

    A root that does not exist leaves the config as it is: a run that needs no data set, such as an inspection, goes on
    without, and readers tell.

    Args:
      field: What a message calls the source.

    Raises:
      RecognitionError: The root holds nothing that is read, or another data set than the one that is named.
      ConfigError: A field is not for the reader that was found.
    """
    root = Path(data.root).expanduser()
    if data.is_read and data.source not in _NAMED_READERS or not root.exists():
        return data, ""
    found = recognise(root)
    if found is None and data.is_read:
        return data, ""  # its reader tells what is missing
    if found is None:
        raise RecognitionError(f"{field} = {data.source}: {_unknown(root)}")
    if data.source != "auto" and data.source not in found.names:
        raise RecognitionError(
            f"{field} = {data.source}: {root} is {found.title}; set {field}={found.names[0]} or auto"
        )
    path = data.root if found.root == str(root) else found.root
    if data.source == found.reader and path == data.root:
        return data, ""
    try:
        read = dataclasses.replace(data, source=found.reader, root=path)
    except ConfigError as error:
        raise ConfigError(f"{field} = {data.source}, and {root} is {found.title}: data.{error}") from None
    return read, f"{field} = {data.source}: {root} is {found.title}, read as data.source={found.reader}"


_NAMED_READERS: Final = ("visa", "deeppcb", "real_iad")
"""Readers that bear the name of their data set, so that another one under the root can be told."""


def recognise(root: Path) -> Found | None:
    """What a file or folder is; None if it is nothing that is read."""
    if root.is_file():
        return _of_json(root)
    if (root / listed.VISA_LIST).is_file():
        return Found("visa", ("visa",), f"VisA with its {listed.VISA_LIST}", str(root))
    if all((root / name).is_file() for name in LISTS.values()):
        return Found("deeppcb", ("deeppcb",), "DeepPCB", str(root))
    for find in (_of_trees, _of_row_folder, _of_split_folder, _of_meta, _of_own):
        if (found := find(root)) is not None:
            return found
    return None


def _categories(root: Path) -> dict[str, Layout]:
    try:
        return folders.categories(DataConfig(source="folder", root=str(root)))
    except UserError:
        return {}


def _of_trees(root: Path) -> Found | None:
    """Published trees; with a folder of a user's own among them the reader is the one of both."""
    categories = _categories(root)
    forms = {folder: form for folder, layout in categories.items() if (form := _form(root / folder, layout))}
    if not forms:
        return None
    if OWN in categories.values():
        return Found("folder", ("folder",), f"{OWN.name} beside {_counted(forms)}", str(root))
    first, several = next(iter(forms.values())), len(set(forms.values())) > 1
    shared: tuple[Source, ...] = tuple(
        name for name in _TREES[first] if all(name in _TREES[form] for form in forms.values())
    )
    if not shared:
        return Found("mvtec", ("mvtec",), f"a folder of several data sets: {_counted(forms)}", str(root))
    title = _counted(forms) if several else _HAVE_IT_TOO.get(first, first)
    return Found("mvtec", shared, f"laid out as {title}", str(root))


def _of_own(root: Path) -> Found | None:
    """A user's own folder; none where something in it belongs to another program, which says what the images show."""
    own = [folder for folder, layout in _categories(root).items() if layout == OWN]
    if not own or foreign.folder_kind(root) or any(_kind_of_json(path) for path in _jsons(root)[:_LISTED]):
        return None
    return Found("folder", ("folder",), OWN.name, str(root))


def _counted(forms: dict[str, str]) -> str:
    return ", ".join(f"{form} ({count})" for form, count in Counter(forms.values()).items())


def _form(here: Path, layout: Layout) -> str | None:
    """The tree of a category among those of `_TREES`; None where nothing says that it is meant as one."""
    if layout.name not in _TREES:
        return None
    if layout.name not in ("MVTec AD", "MVTec AD 2"):
        needed = {"VisA": ("Data/Images",), "DAGM 2007": ("Train/Label", "Test/Label")}.get(layout.name, ("",))
        return layout.name if any((here / name).is_dir() for name in needed) else None
    train = folders_of(here / "train")
    good = next((name for name in sorted(train) if name.lower() in GOOD_NAMES), None)
    if good is None or {"rgb", "xyz"} <= folders_of(here / "train" / good):
        return None
    if layout.name == "MVTec AD 2":
        return layout.name
    test = folders_of(here / "test")
    if {"logical_anomalies", "structural_anomalies"} & test:
        return "MVTec LOCO"
    if good.lower() == "ok":
        return "BTAD"
    return "MVTec AD with defects called bad" if "bad" in test and test <= {"good", "bad"} else "MVTec AD"


def _of_json(path: Path) -> Found | None:
    kind = _kind_of_json(path)
    if kind is None or kind.source is None:
        return None
    return Found(kind.source, (kind.source,), kind.name, str(path))


def _kind_of_json(path: Path) -> foreign.Kind | None:
    try:
        items = [
            item.fields
            for item in parse_items(path, marks=("test_image", *row_kinds.MARKS), wanted="a JSON")
            if isinstance(item, Item)
        ]
    except FormatError:
        return None
    first = items[:5]
    if not first:
        return None
    rows = [row_kinds.kind_of(fields) for fields in first]
    kind = foreign.kind_beside_rows(items if len(items) == 1 else first)
    if kind is None and rows[0] is not None and all(rows):
        return foreign.Kind("rows of several trainers", "", lambda item: True, "rows")
    return kind


def _of_row_folder(root: Path) -> Found | None:
    splits = [f"{split}{suffix}" for split in row_files.SPLITS for suffix in row_files.SUFFIXES]
    for path in (root / name for name in (*splits, dataset_info.NAME)):
        kind = _kind_of_json(path) if path.is_file() else None
        if kind is not None and kind.source == "rows":
            return Found("rows", ("rows",), f"a folder of rows: {kind.name}", str(root))
    return None


def _of_split_folder(root: Path) -> Found | None:
    for folder in (root, *(root / name for name in real_iad.LISTS)):
        for path in _jsons(folder)[:1]:
            kind = _kind_of_json(path)
            if kind is not None and kind.source == "real_iad":
                return Found("real_iad", ("real_iad",), "Real-IAD", str(root))
    return None


def _of_meta(root: Path) -> Found | None:
    path = root / "meta.json"
    kind = _kind_of_json(path) if path.is_file() else None
    if kind is None or kind.source != "meta":
        return None
    return Found("meta", ("meta",), f"{kind.name}, {path.name}", str(path))


def _jsons(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json*") if path.suffix in row_files.SUFFIXES and path.name[0] != ".")


def _unknown(root: Path) -> str:
    """What is wrong with a root that holds nothing that is read, and the way out."""
    kind = foreign.folder_kind(root) if root.is_dir() else _kind_of_json(root)
    if kind is not None:
        return f"{root} holds {kind.name}: {kind.cure}"
    inside = list(_readable_inside(root))
    inside = [each for each in inside if Path(each.root).is_file()] or inside  # folders beside a JSON are its images
    if inside:
        return f"{root} is no data set, but {_to_choose(inside)}"
    for place in (root, *_below(root)):
        try:
            folders.categories(DataConfig(source="folder", root=str(place)))
        except folders.SplitFoldersError as error:
            return str(error)
        except UserError:
            continue
    return f"{root} is nothing that is read. Looked for:\n  " + "\n  ".join(LOOKED_FOR)


def _to_choose(inside: Sequence[Found]) -> str:
    """Which of several roots to set; those that are for testing by their name are none of them."""
    testing = [each for each in inside if is_for_testing(_name(each.root))]
    training = [each for each in inside if each not in testing]
    if not training:
        tell = f"set data.root to what is to train; {_SCORE_ALONE}"
        return f"holds what is for testing by its name alone, {_listed(testing)}: {tell}"
    if len(training) == 1:
        said = f"{training[0].root} is {training[0].title}: set data.root to it"
    else:
        said = f"holds several: {_listed(training)}: set data.root to the one that is to train"
    never = " or ".join(each.root for each in testing[:_SHOWN])
    return f"{said}; not to {never}, for testing by its name" if never else said


def _listed(found: Sequence[Found]) -> str:
    more = len(found) - _SHOWN
    names = ", ".join(f"{each.root} ({each.title})" for each in found[:_SHOWN])
    return names + (f" and {more} more" if more > 0 else "")


def _name(root: str) -> str:
    """The name of a folder or file, without suffix."""
    path = Path(root)
    return path.stem if path.is_file() else path.name


def _readable_inside(root: Path) -> Iterator[Found]:
    """What the files and folders of a root are, the first few of them."""
    for path in (*(_jsons(root)[:_LISTED] if root.is_dir() else ()), *_below(root)):
        if (found := recognise(path)) is not None:
            yield found


def _below(root: Path) -> list[Path]:
    """The folders in a folder, the first few of them."""
    inside = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))[:_LISTED]
