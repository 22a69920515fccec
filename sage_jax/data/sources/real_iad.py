"""Real-IAD's split JSON: a file for each category, or a folder of them, with the images elsewhere.

    {"meta": {"prefix": "pcb/", "normal_class": "OK"}, "train": [...], "test": [{"category": "pcb",
     "anomaly_class": "AK", "image_path": "NG/AK/S0001/x.jpg", "mask_path": "NG/AK/S0001/x.png"}]}

As published, the JSON files lie in `realiad_jsons/realiad_jsons/` (or a folder beside it, of another protocol), and the
images in `realiad_<size>/<category>/`. Paths are relative to the folder of images and the prefix.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.config import DataConfig
from sage_jax.data.images import forward_slashes
from sage_jax.data.records import Fault
from sage_jax.data.sources.items import json_kind
from sage_jax.errors import UserError

SPLITS: Final = ("train", "test")
LISTS: Final = ("realiad_jsons/realiad_jsons", "realiad_jsons")
"""Where the split files of the most common protocol lie below the data set's folder."""

_NORMAL: Final = "OK"
_IMAGE_KEY: Final = re.compile(r'"image_path"\s*:')


class SplitError(UserError):
    """Split files that cannot be read at all, or whose images are not found."""


@dataclasses.dataclass(frozen=True)
class Row:
    """An item of a split file, its paths relative to the folder of images.

    Attributes:
      line: Line of its path in the file.
      kind: Its anomaly class.
      mask: "" without one.
    """

    line: int | None
    split: str
    category: str
    kind: str
    image: str
    mask: str
    defective: bool


def is_split(content: Any) -> bool:
    """Whether a JSON is a split file: train and test are lists, not objects by category as in a meta.json."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("meta"), Mapping)
        and any(split in content for split in SPLITS)
        and all(isinstance(content.get(split, []), list) for split in SPLITS)
    )


def split_files(data: DataConfig) -> list[Path]:
    """The split files: `data.root` itself, those in it, or those at their published place below it.

    Raises:
      SplitError: There are none.
    """
    root = Path(data.root).expanduser()
    if root.is_file():
        return [root]
    for folder in (root, *(root / name for name in LISTS)):
        if found := sorted(path for path in folder.glob("*.json") if not path.name.startswith(".")):
            return found
    raise SplitError(
        f"{root}: holds no split files of Real-IAD (<category>.json): set data.root to such a file, or to their folder"
    )


def images_root(data: DataConfig) -> Path:
    """The folder of images: `data.images_root`, else the one beside the split files that holds what they name.

    Raises:
      SplitError: None is found, or several of them hold it.
    """
    if data.images_root:
        return Path(data.images_root).expanduser()
    path = split_files(data)[0]
    first = _first_image(path, path.stat().st_mtime_ns)
    if not first:
        return path.parent
    for place in (path.parent, *list(path.resolve().parents)[1:3]):
        inside = (each for each in place.glob("realiad_*") if each.is_dir())
        found = [each for each in (place, *sorted(inside)) if (each / first).is_file()]
        if len(found) > 1:
            names = ", ".join(each.name for each in found)
            raise SplitError(f"{place}: images of several sizes ({names}): name the folder of one in data.images_root")
        if found:
            return found[0]
    raise SplitError(
        f"{path}: its first image, {first}, lies neither beside it nor in a folder realiad_<size> above it: name the "
        "folder of images in data.images_root"
    )


@functools.lru_cache(maxsize=64)
def _first_image(path: Path, changed_ns: int) -> str:
    """The image of a file's first good item; "" where it has none, which is told where the file is read."""
    del changed_ns  # a file that is replaced is another one
    try:
        items = rows(path, path.read_text("utf-8-sig"))
        return next((item.image for item in items if isinstance(item, Row)), "")
    except (OSError, UnicodeDecodeError):
        return ""


def rows(path: Path, text: str) -> Iterator[Row | Fault]:
    """The items of a split file in its order, each with its line; a faulty one is a fault in its place.

    Raises:
      SplitError: The file is no split file.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SplitError(f"{path}: is no JSON: {error}") from None
    if not is_split(content):
        raise SplitError(f"{path}: is no split file of Real-IAD, an object with meta and the lists train and test")
    prefix, normal = content["meta"].get("prefix", ""), content["meta"].get("normal_class", _NORMAL)
    if not isinstance(prefix, str) or not isinstance(normal, str):
        raise SplitError(f"{path}: meta.prefix and meta.normal_class must be texts")
    # The items come in the text's order, so the n-th key stands where the n-th item that has one does.
    lines = iter([text.count("\n", 0, match.start()) + 1 for match in _IMAGE_KEY.finditer(text)])
    for split in (name for name in content if name in SPLITS):
        for number, item in enumerate(content[split], start=1):
            line = next(lines, None) if isinstance(item, dict) and "image_path" in item else None
            yield _row(path, line, item, split, f"item {number} of {split}", prefix=prefix, normal=normal)


def _row(path: Path, line: int | None, item: Any, split: str, where: str, *, prefix: str, normal: str) -> Row | Fault:
    if not isinstance(item, dict):
        return Fault(str(path), line, f"{where} is {json_kind(item)}", "make it an object with image_path")
    texts = {name: item.get(name) or "" for name in ("category", "anomaly_class", "image_path", "mask_path")}
    for name, value in texts.items():
        if not isinstance(value, str):
            return Fault(str(path), line, f"{where}: {name} is {json_kind(value)}", "give it a text")
        if not value.strip() and name in ("anomaly_class", "image_path"):
            return Fault(str(path), line, f"{where}: {name} is missing or empty", "add it")
    category, kind, image, mask = (value.strip() for value in texts.values())
    defective = kind != normal
    joined = [f"{prefix.rstrip('/')}/{forward_slashes(name)}".lstrip("/") if name else "" for name in (image, mask)]
    return Row(line, split, category or path.stem, kind, joined[0], joined[1] if defective else "", defective)
