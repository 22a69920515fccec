"""The images of a question set: each read and decoded once before any is shown to a model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from sage_jax.benchmark.items import Item
from sage_jax.config import BenchmarkConfig
from sage_jax.data.images import ImageFault, decode_rgb, read_inside
from sage_jax.data.records import Fault

_GONE: Final = "does not exist"
_MOST_THREADS: Final = 8


@dataclasses.dataclass(frozen=True)
class CheckedImages:
    """What became of the images.

    Attributes:
      items: The items whose images are all good.
      digests: SHA-256 of each of their images, by path.
      faults: Those of the other items; images that do not exist are one fault together.
    """

    items: list[Item]
    digests: dict[str, str]
    faults: list[Fault]


def images_root(config: BenchmarkConfig) -> Path:
    """Folder that the image paths of a set are relative to."""
    if config.images_root:
        return Path(config.images_root).expanduser()
    root = Path(config.root).expanduser()
    folder = root if root.is_dir() else root.parent
    inside = config.name == "manta" and folder.resolve().name == "JsonData"
    return folder.resolve().parent if inside else folder


def check_images(
    items: Sequence[Item],
    root: Path,
    *,
    shots: int,
    progress: Callable[..., AbstractContextManager[Callable[[int], None]]],
) -> CheckedImages:
    """Reads and decodes the images of items, and as many of their references as are shown.

    Args:
      progress: Makes the display of a number of units, as `RunLog.progress`.
    """
    paths = list(dict.fromkeys(path for item in items for path in _paths(item, shots)))
    found: dict[str, str | ImageFault] = {}
    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="check-images")
    try:
        with progress(len(paths), unit="image") as advance:
            for path, checked in zip(paths, pool.map(lambda path: _checked(root, path), paths), strict=True):
                found[path] = checked
                advance(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    good = [item for item in items if not _bad(item, shots, found)]
    used = {path for item in good for path in _paths(item, shots)}
    digests = {path: str(found[path]) for path in paths if path in used}
    return CheckedImages(good, digests, _faults(items, shots, found, root))


def _paths(item: Item, shots: int) -> tuple[str, ...]:
    return (item.image, *item.references[:shots])


def _checked(root: Path, path: str) -> str | ImageFault:
    try:
        content = read_inside(root, path)
        decode_rgb(content, name=path)
    except ImageFault as fault:
        return fault
    return hashlib.sha256(content).hexdigest()


def _bad(item: Item, shots: int, found: Mapping[str, str | ImageFault]) -> ImageFault | None:
    """The first fault of an item's images."""
    faults = (found[path] for path in _paths(item, shots))
    return next((fault for fault in faults if isinstance(fault, ImageFault)), None)


def _faults(items: Sequence[Item], shots: int, found: Mapping[str, str | ImageFault], root: Path) -> list[Fault]:
    faults: list[Fault] = []
    gone: dict[str, Item] = {}
    for item in items:
        fault = _bad(item, shots, found)
        if fault is None:
            continue
        if fault.problem.startswith(_GONE):
            gone[fault.name] = item
        else:
            faults.append(Fault(item.file, None, f"{item.key}: {fault.name} {fault.problem}", fault.cure))
    if gone:
        first, item = next(iter(gone.items()))
        number = "1 image is" if len(gone) == 1 else f"{len(gone)} images are"
        named = first if first == item.key else f"{first}, of {item.key}"
        cure = "complete the images, set benchmark.images_root, or leave their questions out"
        faults.insert(0, Fault(item.file, None, f"{number} missing under {root}, such as {named}", cure))
    return faults
