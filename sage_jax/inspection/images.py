"""Images to inspect: the user's files or test records, each read when its turn comes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from sage_jax.config import ConfigError, DataConfig, InspectConfig
from sage_jax.data.adpl.facts import Vocabulary
from sage_jax.data.depth import at_depth
from sage_jax.data.images import SUFFIXES, remembered_rgb
from sage_jax.data.records import PAIR_TYPES, Record, Reference
from sage_jax.data.registration import registered
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.verdict import UNKNOWN_CATEGORY

_LIST_SUFFIXES: Final = (".txt", ".lst", ".list")
_KEPT_REFERENCES: Final = 8


@dataclasses.dataclass(frozen=True)
class InputImage:
    """An image to inspect, or why it cannot be.

    Attributes:
      path: Its path, or another name.
      category: Kind of part.
      record: The image with its references; None where it cannot be read.
      error: Why it cannot be; "" where it can.
      questions: Asked about it in place of `inspect.questions`, with `inspect.ask` = `together`; None = those.
    """

    path: str
    category: str
    record: Record | None
    error: str = ""
    questions: tuple[str, ...] | None = None


class Images(Protocol):
    """Images to inspect, in order; none is in memory before it is read."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Sixteen hex digits that name an image wherever it stands in the order."""
        ...

    def stamp(self, index: int) -> str:
        """What changes when an image or its reference does; of the content at the time of the call."""
        ...

    def read(self, index: int) -> InputImage:
        """The image with its reference, or its error."""
        ...


def make_input(
    name: str,
    image: bytes,
    references: Sequence[Reference],
    category: str,
    vocabulary: Vocabulary,
    *,
    register: bool = False,
) -> InputImage:
    """An image to inspect, with the facts that the vocabulary has on its category.

    Args:
      name: Its path, or another name.
      image: Content of its file.
      references: Good images to compare it with; none = zero-shot.
      register: Whether they are turned and shifted to where the part lies in the image.
    """
    if register:
        references = [Reference(registered(image, each.image, name=name), each.path) for each in references]
    first, others = (references[0], references[1:]) if references else (None, ())
    record = Record(
        record_id=name,
        image_id=name,
        test_image=image,
        reference_image=None if first is None else first.image,
        category=category,
        pair_type=PAIR_TYPES[0],
        facts=vocabulary.facts_for(category),
        questions=(),
        descriptions=(),
        anomalous=None,
        defects=(),
        mask=None,
        test_path=name,
        reference_path="" if first is None else first.path,
        further_references=tuple(others),
    )
    return InputImage(name, category, record)


def category_of(path: Path, vocabulary: Vocabulary) -> str:
    """Category of an image in a folder that bears its name, else `part`."""
    folder = path.parent.name
    return folder if folder.replace("_", " ") in vocabulary.objects else UNKNOWN_CATEGORY


class UserImages:
    """The images that `inspect.images` names, with the references of `inspect.references`.

    Raises:
      ConfigError: Paths that cannot be, before any work.
    """

    def __init__(self, config: InspectConfig, vocabulary: Vocabulary, data: DataConfig | None = None) -> None:
        """`data` is what the model was trained on: depth, whether parts are registered, and number of references."""
        self._register = data is not None and data.register == "rigid"
        number = config.num_references or (1 if data is None else data.num_references)
        self._bits = 0 if data is None else data.bits
        self._references = References(config.references, number, self._bits)
        self._paths = find_images(config.images)
        self._category, self._vocabulary = config.category, vocabulary

    def __len__(self) -> int:
        return len(self._paths)

    def unmatched(self) -> str:
        """Which images are compared with a reference that is not their own, as a sentence; "" where none is."""
        own = sum(self._references.has_own(path) for path in self._paths)
        first = self._references.paths_of(Path())
        if not first or own == len(self._paths):
            return ""
        number = f"{len(first)}, {first[0].name} to {first[-1].name}" if len(first) > 1 else first[0].name
        return (
            f"{len(self._paths) - own} of {len(self._paths)} images have no reference of their own name, so they are "
            f"compared with the folder's first: {number}"
        )

    def key(self, index: int) -> str:
        return _hashed(os.fsencode(self._paths[index]))

    def stamp(self, index: int) -> str:
        path = self._paths[index]
        references = self._references.paths_of(path)
        stamps = [f"{_hashed(os.fsencode(each))} {_file_stamp(each)}" for each in references]
        return f"{_file_stamp(path)}; {stamps[0] if len(stamps) == 1 else _hashed(' '.join(stamps).encode())}"

    def read(self, index: int) -> InputImage:
        path = self._paths[index]
        # A file name need not be text; the report must be.
        name = os.fsencode(path).decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        category = self._category or category_of(path, self._vocabulary)
        try:
            test_image = at_depth(path.read_bytes(), self._bits, name=name)
            remembered_rgb(test_image, name=name)
            references = self._references.of(path)
        except (OSError, ValueError) as error:  # ImageFault is one, and so is a path with a NUL byte
            raise_if_lacking(error, name, permission=False)
            reason = f"{name}: cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            reason = reason if name in reason else f"{name}: {reason}"
            return InputImage(name, category, None, reason)
        return make_input(name, test_image, references, category, self._vocabulary, register=self._register)


class ChosenImages:
    """Some of other images, by their numbers."""

    def __init__(self, images: Images, numbers: Sequence[int]) -> None:
        self._images, self._numbers = images, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def key(self, index: int) -> str:
        return self._images.key(self._numbers[index])

    def stamp(self, index: int) -> str:
        return self._images.stamp(self._numbers[index])

    def read(self, index: int) -> InputImage:
        return self._images.read(self._numbers[index])


class SampleImages:
    """A few test records, to show what inspection gives: distinct images, as many defective as good where there are."""

    def __init__(self, records: Sequence[Record], wanted: int) -> None:
        distinct = {record.image_id: (index, record.anomalous) for index, record in enumerate(records)}.values()
        defective = [index for index, anomalous in distinct if anomalous]
        good = [index for index, anomalous in distinct if not anomalous]
        half = min(len(defective), max(wanted // 2, wanted - len(good)))
        chosen = {*defective[:half], *good[: wanted - half]}
        self._records = [records[index] for index, _ in distinct if index in chosen]

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        return _hashed(self._records[index].record_id.encode())

    def stamp(self, index: int) -> str:
        return _hashed(repr(self._records[index]).encode())

    def read(self, index: int) -> InputImage:
        record = self._records[index]
        return InputImage(record.test_path, record.category, record)


def find_images(images: str) -> list[Path]:
    """The image files that `inspect.images` names: one image, a folder (searched with its subfolders), or a list.

    A list is a text file with a path a line, relative to its own folder; blank lines and `#` lines are left out.

    Raises:
      ConfigError: There is no such file, or no image in the folder or list.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        found = _images_under(path)
    elif path.suffix.lower() in _LIST_SUFFIXES and path.is_file():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"inspect.images = {images!r}: no list of paths in UTF-8 ({error})") from None
        found = [path.parent / line for line in lines if line and not line.startswith("#")]
    elif path.is_file():
        found = [path]
    else:
        raise ConfigError(f"inspect.images = {images!r}: no such file or folder")
    if not found:
        raise ConfigError(f"inspect.images = {images!r}: no image in it; known suffixes: {', '.join(SUFFIXES)}")
    return found


class References:
    """The good references that `inspect.references` names: one image for all, or a folder matched by file name.

    In a folder, an image's references are the file of the same name, or the images of a folder named like it (its own),
    or, without these, the folder's first images. The last are kept, so that some that serve many images are read once,
    and a folder of many does not fill the memory.

    Raises:
      ConfigError: There is no such file, or no image in the folder.
    """

    def __init__(self, references: str, number: int = 1, bits: int = 0):
        """`number` is the most references of an image, `bits` the depth of wide ones that state none (`at_depth`)."""
        self._own: dict[str, list[Path]] = {}
        self._first: list[Path] = []
        self._number, self._bits, self._alone = number, bits, True
        self._read = functools.lru_cache(maxsize=_KEPT_REFERENCES + number)(_read_reference)
        if not references:
            return
        path = Path(references).expanduser()
        if not path.exists():
            raise ConfigError(f"inspect.references = {references!r}: no such file or folder")
        files = [path] if path.is_file() else _images_under(path)
        if not files:
            raise ConfigError(f"inspect.references = {references!r}: no image in it")
        for each in files:
            self._own.setdefault(each.name, [each])
            if each.parent != path and path.is_dir():
                self._own.setdefault(f"{each.parent.name}/", []).append(each)
        self._first = files[:number]
        self._alone = len(files) <= number

    def has_own(self, image: Path) -> bool:
        """Whether an image's references were meant for it: those of its name, or all that there are."""
        return self._alone or self._own_of(image) is not None

    def paths_of(self, image: Path) -> list[Path]:
        """Paths of an image's references; none = zero-shot."""
        return (self._own_of(image) or self._first)[: self._number]

    def of(self, image: Path) -> list[Reference]:
        """An image's references; none = zero-shot.

        Raises:
          OSError, ImageFault: One cannot be read.
        """
        return [Reference(self._read(path, _file_stamp(path), self._bits), str(path)) for path in self.paths_of(image)]

    def _own_of(self, image: Path) -> list[Path] | None:
        return self._own.get(image.name) or self._own.get(f"{image.stem}/")


def _read_reference(path: Path, stamp: str, bits: int) -> bytes:
    """A reference's content; the stamp is there to tell a changed file from the one that was read before."""
    content = at_depth(path.read_bytes(), bits, name=f"reference {path}")
    remembered_rgb(content, name=f"reference {path}")
    return content


def _images_under(folder: Path) -> list[Path]:
    """Image files of a folder and its subfolders; hidden ones, and those in hidden folders, do not count."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in shown if path.is_file())


def _file_stamp(path: Path) -> str:
    """Size and time of change of a file; of one that may not be read, that."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL byte, which no path has
        return "absent"
    return f"{state.st_size} {state.st_mtime_ns}" if os.access(path, os.R_OK) else "locked"


def _hashed(name: bytes) -> str:
    return hashlib.sha256(name).hexdigest()[:16]
