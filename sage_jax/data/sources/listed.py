"""Data sets whose images stand in a list: VisA's `split_csv`, meta.json as AnomalyCLIP and ADer read it, Real-IAD."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from sage_jax.config import DataConfig
from sage_jax.data.images import forward_slashes
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources import real_iad
from sage_jax.data.sources.entries import (
    GOOD_NAMES,
    Entry,
    EntryReader,
    draw,
    kinds_of,
    references_among,
    split_of,
    words,
)
from sage_jax.data.sources.items import json_kind
from sage_jax.errors import UserError

VERSION: Final = 2
SOURCES: Final = ("visa", "meta", "real_iad")
VISA_LIST: Final = "split_csv/1cls.csv"
_SPLITS: Final = ("train", "test")
_IMAGE_KEY: Final = re.compile(r'"img_path"\s*:')


class ListError(UserError):
    """A list that cannot be read at all, or a category that it does not have."""


def read_images(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[AnnotatedImage | Fault]:
    """Annotated images of a list, divided, drawn and given references as `folders.read_images` does with a tree's.

    VisA: `data.root` holds `split_csv/1cls.csv` with the columns object (or category), split, label, image, mask.
    meta.json: `data.root` is the file, `{"train" | "test": {category: [{"img_path", "mask_path", "specie_name",
    "anomaly": 0 | 1}]}}`, its paths relative to `data.images_root` or its own folder.
    Real-IAD: `data.root` is a split JSON of a category or a folder of them (sources/real_iad.py).

    Raises:
      ListError: The list cannot be read, or has none of the held-out categories.
    """
    root = images_root(data)
    listed: dict[str, Entry] = {}
    for item in _read_list(data):
        if isinstance(item, Fault):
            yield item
        elif item.path in listed:
            first = listed[item.path]
            place = "" if first.list_file == item.list_file else f" of {first.list_file}"
            problem = f"{item.path} stands in line {first.line}{place} already"
            yield Fault(item.list_file, item.line, problem, "remove one of the two")
        else:
            listed[item.path] = item
    entries = list(listed.values())
    _check_held_out(data, {entry.category for entry in entries})
    chosen = [entry for entry in entries if split_of(entry, data) == split]
    num = data.num_train if split == "train" else data.num_test
    good = references_among([entry for entry in entries if entry.home == "train"], data)
    read = EntryReader(root, good, num_references=data.num_references, bits=data.bits)
    for entry in draw(chosen, num or len(chosen), np.random.default_rng([VERSION, seed])):
        yield from read(entry)


def kinds(data: DataConfig) -> dict[str, dict[str, int]]:
    """Images of each type of defect, by category: what the list says.

    Raises:
      ListError: The list cannot be read.
    """
    return kinds_of([item for item in _read_list(data) if isinstance(item, Entry)])


def list_paths(data: DataConfig) -> list[Path]:
    """The lists themselves: one, or one a category.

    Raises:
      SplitError: Real-IAD's folder holds none.
    """
    root = Path(data.root).expanduser()
    match data.source:
        case "real_iad":
            return real_iad.split_files(data)
        case "visa":
            return [root / VISA_LIST]
        case _:
            return [root]


def images_root(data: DataConfig) -> Path:
    """Folder that the lists' paths are relative to.

    Raises:
      SplitError: Real-IAD's images are not found.
    """
    root = Path(data.root).expanduser()
    if data.source == "visa":
        return root
    if data.source == "real_iad":
        return real_iad.images_root(data)
    return Path(data.images_root).expanduser() if data.images_root else root.parent


def files(data: DataConfig) -> Iterator[str]:
    """Paths, relative to the images' root, of every image and mask that the list names."""
    for item in _read_list(data):
        if isinstance(item, Entry):
            yield from (item.path, *item.masks)


def _read_list(data: DataConfig) -> Iterator[Entry | Fault]:
    for path in list_paths(data):
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ListError(f"{path}: {error.strerror}: set data.root to the {data.source} data set") from None
        except UnicodeDecodeError as error:
            raise ListError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
        match data.source:
            case "real_iad":
                yield from _read_real_iad(path, text)
            case "visa":
                yield from _read_visa(path, text)
            case _:
                yield from _read_meta(path, text)


def _read_real_iad(path: Path, text: str) -> Iterator[Entry | Fault]:
    for row in real_iad.rows(path, text):
        if isinstance(row, Fault):
            yield row
            continue
        named = (row.split, row.category, row.kind, row.image, row.mask, row.defective)
        yield _listed(path, row.line, *named, trains_on_defects=True)


def _read_visa(path: Path, text: str) -> Iterator[Entry | Fault]:
    reader = csv.DictReader(io.StringIO(text))
    columns = reader.fieldnames or []
    missing = [name for name in ("split", "label", "image", "mask") if name not in columns]
    if missing or not {"object", "category"} & set(columns):
        name = missing[0] if missing else "object"
        raise ListError(f"{path}: has no column {name!r}: its first line must be object,split,label,image,mask")
    try:
        for row in reader:
            cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            label = cells["label"].lower()
            category = cells.get("object") or cells.get("category") or ""
            defective = {"normal": False, "anomaly": True}.get(label)
            if defective is None:
                yield Fault(str(path), reader.line_num, f"label {label[:40]!r} is none", "write normal or anomaly")
            else:
                yield _listed(
                    path, reader.line_num, cells["split"], category, label, cells["image"], cells["mask"], defective
                )
    except csv.Error as error:
        yield Fault(
            str(path), reader.line_num, f"cannot be parsed: {error}", "correct the line; those after it are lost"
        )


def _read_meta(path: Path, text: str) -> Iterator[Entry | Fault]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}: is no JSON: {error}") from None
    if not isinstance(content, dict) or not set(content) & set(_SPLITS):
        raise ListError(f"{path}: holds no train and no test: a meta.json has these two, each with its categories")
    # The items come in the text's order, so the n-th key stands where the n-th item that has one does.
    line_numbers = iter([text.count("\n", 0, match.start()) + 1 for match in _IMAGE_KEY.finditer(text)])
    for split, categories in content.items():
        if split not in _SPLITS or not isinstance(categories, dict):
            yield Fault(str(path), None, f"{split[:40]!a} is no split with categories", "name it train or test")
            continue
        for category, items in categories.items():
            for number, item in enumerate(items if isinstance(items, list) else [items], start=1):
                where = f"item {number} of {category!a} in {split}"
                line = next(line_numbers, None) if isinstance(item, dict) and "img_path" in item else None
                yield _read_meta_item(path, line, split, category, item, where)


def _read_meta_item(path: Path, line: int | None, split: str, category: str, item: Any, where: str) -> Entry | Fault:
    if not isinstance(item, dict):
        return Fault(str(path), line, f"{where} is {json_kind(item)}", "make it an object with img_path")
    anomaly = item.get("anomaly")
    if isinstance(anomaly, bool) or anomaly not in (0, 1):
        return Fault(str(path), line, f"{where}: anomaly is {anomaly!r}", "write 0 or 1")
    texts = {name: item.get(name, "") for name in ("img_path", "mask_path", "specie_name")}
    for name, value in texts.items():
        if not isinstance(value, str):
            return Fault(str(path), line, f"{where}: {name} is {json_kind(value)}", "give it a text")
    image, mask, kind = (value.strip() for value in texts.values())
    if not image:
        return Fault(str(path), line, f"{where}: img_path is missing or empty", "add it")
    return _listed(path, line, split, category, kind or "defect", image, mask, anomaly == 1)


def _listed(
    path: Path,
    line: int | None,
    split: str,
    category: str,
    kind: str,
    image: str,
    mask: str,
    defective: bool,
    *,
    trains_on_defects: bool = False,
) -> Entry | Fault:
    """The entry of an item; with `trains_on_defects` its training images may be defective (Real-IAD's noisy splits)."""
    for value in (category, kind, image, mask):
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and no file can be called
            return Fault(str(path), line, f"{value!a} holds half a character", "write the whole character")
    if split not in _SPLITS or not category.strip():
        problem = f"split {split[:40]!r} is none" if split not in _SPLITS else "the category is empty"
        return Fault(str(path), line, problem, "write train or test" if split not in _SPLITS else "name the product")
    misplaced = split == "train" and not trains_on_defects
    if defective and (misplaced or not mask):
        problem = "is for training, where all are good" if misplaced else "has no mask"
        cure = "list it under test" if misplaced else "add its mask, or leave it out"
        return Fault(str(path), line, f"{image} is defective, but {problem}", cure)
    label = kind if defective else GOOD_NAMES[0]
    if defective and kind.lower() in GOOD_NAMES:
        return Fault(str(path), line, f"{image} is defective, but called {kind!r}", "correct one of the two")
    image, mask = (forward_slashes(name) for name in (image, mask))
    home = "train" if split == "train" else "either" if defective else "test"
    key = f"{category}/{split}/{image}"
    masks = (mask,) if defective else ()
    return Entry(category, words(category), label, image, key, home, masks, line=line, list_file=str(path))


def _check_held_out(data: DataConfig, categories: set[str]) -> None:
    for name in data.held_out:
        if categories and words(name) not in categories:
            found = ", ".join(sorted(categories))
            raise ListError(f"data.held_out: {list_paths(data)[0]} has no category {name!r}; it has {found}")
