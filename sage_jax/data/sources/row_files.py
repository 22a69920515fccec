"""The files that rows of other trainers stand in: one, those of a folder's splits, or those that a listing names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from sage_jax.config import DataConfig
from sage_jax.data.images import ImageFault, resolve_inside
from sage_jax.data.records import Fault
from sage_jax.data.sources import dataset_info
from sage_jax.data.sources.items import BadItem, FormatError, Item, parse_items, text_of
from sage_jax.data.sources.named_images import relative_path
from sage_jax.data.sources.row_kinds import MARKS

SPLITS: Final[tuple[Literal["train", "test"], ...]] = ("train", "test")
SUFFIXES: Final = (".jsonl", ".json")
WANTED: Final = "rows of another trainer"


@dataclasses.dataclass(frozen=True)
class RowFile:
    """A file of rows.

    Attributes:
      path: The file.
      name: Its name below the folder of the data set, for records; "" where it is the data set's only one.
      split: Of its rows; None = by the images' hash.
      set_name: Name of the meta JSON's set; "" without one.
      root: Folder below the images' root that its image paths are relative to; "" = the root.
      repeat: How often its records are trained on in an epoch (InternVL's `repeat_time`).
      share: Share of its rows that are read, the first ones (`repeat_time` below 1).
      length: Rows that it should have; None where nobody says.
      line: Line of the meta JSON that names it.
      columns: What its rows call their fields, where dataset_info.json says so.
    """

    path: Path
    name: str = ""
    split: Literal["train", "test"] | None = None
    set_name: str = ""
    root: str = ""
    repeat: int = 1
    share: float = 1.0
    length: int | None = None
    line: int | None = None
    columns: dataset_info.Columns | None = None

    def items(self, data: DataConfig) -> Iterator[Item | Fault]:
        """Its rows with their lines, and what is wrong with it as a file.

        Raises:
          FormatError: It cannot be read at all.
        """
        marks = MARKS if self.columns is None else (*MARKS, *self.columns.names)
        found = parse_items(self.path, marks=marks, wanted=WANTED)
        if self.length not in (None, len(found)):
            problem = f"set {self.set_name!r}: length is {self.length}, and {self.path.name} has {len(found)} rows"
            yield Fault(data.root, self.line, problem, "correct the length, or complete the file")
        for item in found[: len(found) if self.share == 1.0 else int(len(found) * self.share)]:
            if self.columns is not None and isinstance(item, Item):
                item = dataclasses.replace(item, fields=self.columns.renamed(item.fields))
            yield item


def images_root(data: DataConfig) -> Path:
    """Folder that image paths of rows are relative to: the one given, else that of the file."""
    root = Path(data.root).expanduser()
    return Path(data.images_root).expanduser() if data.images_root else root if root.is_dir() else root.parent


def located(data: DataConfig, name: str) -> str:
    """A file of rows, by `RowFile.name`, as a user finds it."""
    root = _listing(data)
    if root.name == dataset_info.NAME:
        return str(root.parent / name)
    return str((root if root.is_dir() else images_root(data)) / name) if name else data.root


def row_files(data: DataConfig) -> Iterator[RowFile | Fault]:
    """The files of rows under `data.root`, and what is wrong with a listing that names them.

    A listing is a meta JSON of InternVL, or LLaMA-Factory's dataset_info.json, also that of a folder without splits.

    Raises:
      FormatError: The folder has no such file, or the listing cannot be read.
    """
    root = _listing(data)
    if root.is_dir():
        yield from _of_folder(root)
        return
    sets = _sets(root)
    if sets is None:
        yield RowFile(root)
        return
    text = root.read_text(encoding="utf-8-sig")
    for name, fields in sets.items():
        at = text.find(json.dumps(name, ensure_ascii=False))
        line = text.count("\n", 0, at) + 1 if at >= 0 else None
        try:
            if root.name == dataset_info.NAME:
                yield _of_info(name, fields, root.parent, line)
            else:
                yield _of_set(name, fields, images_root(data), line)
        except BadItem as error:
            yield Fault(str(root), line, f"set {name!r}: {error.args[0]}", error.args[1])


def json_paths(data: DataConfig) -> Iterator[Path]:
    """All files that rows are read from, with the listing that names them."""
    root = _listing(data)
    if root.is_file():
        yield root
    yield from (found.path for found in row_files(data) if isinstance(found, RowFile) and found.path != root)


def _listing(data: DataConfig) -> Path:
    """The root, or the dataset_info.json of a folder that has no files of splits."""
    root = Path(data.root).expanduser()
    split = any((root / f"{split}{suffix}").is_file() for split in SPLITS for suffix in SUFFIXES)
    return root / dataset_info.NAME if not split and (root / dataset_info.NAME).is_file() else root


def _of_folder(root: Path) -> Iterator[RowFile]:
    found = False
    for split in SPLITS:
        path = next((root / f"{split}{suffix}" for suffix in SUFFIXES if (root / f"{split}{suffix}").is_file()), None)
        if path is not None:
            found = True
            yield RowFile(path, name=path.name, split=split)
    if not found:
        names = " or ".join(f"{split}.jsonl" for split in SPLITS)
        raise FormatError(f"{root}: has no {names}: set data.root to a file of rows, or to a folder of these")


def _sets(path: Path) -> dict[str, Any] | None:
    """The sets of a listing; None where the file is something else, or cannot be parsed."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not content:
        return None
    if path.name == dataset_info.NAME:
        return content if dataset_info.is_info(content) else None
    return content if all(isinstance(one, dict) and "annotation" in one for one in content.values()) else None


def _of_info(name: str, fields: dict[str, Any], base: Path, line: int | None) -> RowFile:
    """A set of LLaMA-Factory's; its file lies in the listing's folder."""
    file, columns = dataset_info.file_name(fields), dataset_info.columns_of(fields)
    return RowFile(_inside(base, file, "file_name"), name=file, set_name=name, line=line, columns=columns)


def _inside(base: Path, name: str, field: str) -> Path:
    try:
        return resolve_inside(base, name)
    except ImageFault as error:
        raise BadItem(f"{field} {error.name} {error.problem}", error.cure) from None


def _of_set(name: str, fields: dict[str, Any], base: Path, line: int | None) -> RowFile:
    annotation = relative_path(base, text_of(fields, "annotation"))
    path = _inside(base, annotation, "annotation")
    times, length = fields.get("repeat_time", 1), fields.get("length")
    if isinstance(times, bool) or not isinstance(times, (int, float)) or not 0 < times < float("inf"):
        raise BadItem(f"repeat_time is {times!r}", "give a number above 0, or take the set out")
    if times > 1 and times != int(times):
        raise BadItem(f"repeat_time is {times!r}", "above 1 give a whole number")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise BadItem(f"length is {length!r}", "give the number of rows, or leave it out")
    return RowFile(
        path,
        name=annotation,
        set_name=name,
        root=relative_path(base, text_of(fields, "root")) if fields.get("root") else "",
        repeat=max(int(times), 1),
        share=min(float(times), 1.0),
        length=length,
        line=line,
    )
