"""Records of a data set, whatever its format: each is checked, and each fault is told once."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from sage_jax.config import DataConfig
from sage_jax.data.adpl import preferences
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.depth import find_depth
from sage_jax.data.drawing import draw
from sage_jax.data.images import ImageFault, decode_mask, decode_rgb, read_inside
from sage_jax.data.records import AnnotatedImage, Fault, Record, Reference, validate
from sage_jax.data.registration import registered
from sage_jax.data.sources import adpl_json, deeppcb, deeppcb_boards, folders, generated, listed, row_files, rows
from sage_jax.data.sources.named_images import images_root
from sage_jax.data.sources.own_folders import OWN
from sage_jax.data.sources.split_names import is_for_testing
from sage_jax.errors import UserError

VERSION: Final = 2
_JSON_SOURCES: Final = ("adpl", "rows")
# Where a data set lies and how it is read changes nothing in it; the vocabulary counts by its content.
_NOT_CONTENT: Final = (
    "root",
    "images_root",
    "cache_dir",
    "vocabulary",
    "facts",
    "on_bad_record",
    "num_workers",
    "prefetch",
    "group_batches",
    "vit_features",
    "validation_fraction",
)


class ReaderError(UserError):
    """A data set that cannot be used at all; the message names its path and the way out."""


def read_records(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[Record | Fault]:
    """Records of a split, and everything that is wrong with the data set, each fault once.

    Every record has passed `validate`, its images and its mask decode, its boxes lie in its image, and its id, like
    the id of an annotated image, occurs once. A record, image or line that fails comes as a Fault in its place; only
    what makes the data set as a whole unusable is raised.

    Args:
      data: The data set.
      split: `train` or `test`; see each reader for how it divides.
      seed: Seed of the draws and wording of training; those of testing follow `data.test_seed` alone.

    Raises:
      ReaderError: The data set as a whole cannot be used: no such folder or file, no list, nothing to draw.
      VocabularyError: The vocabulary file cannot be used.
    """
    told: set[Fault] = set()
    record_ids: set[str] = set()
    with _unusable(data):
        for item in _read(data, split, seed if split == "train" else data.test_seed):
            for result in (item,) if isinstance(item, Fault) else _checked(item, data, record_ids):
                if not isinstance(result, Fault):
                    yield result
                elif result not in told:
                    told.add(result)
                    yield result


def undrawn_faults(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[Fault | None]:
    """The faults of all images of a split, of those too that the config does not draw; None for each good one.

    A generator has no others, and where all are read anyway there is nothing to add: then nothing comes.

    Raises:
      ReaderError: As `read_records`.
    """
    num_drawn = data.num_train if split == "train" else data.num_test
    if data.source == "generator" or num_drawn == 0:
        return
    image_px = 0 if data.source == "deeppcb" else data.image_px  # whole boards instead of crops
    whole = dataclasses.replace(
        data,
        num_train=0,
        num_test=0,
        image_px=image_px,
        records_per_image=1,
        drawn_defects=0,
        register="none",
        num_references=1,
    )
    for item in read_records(whole, split, seed):
        yield item if isinstance(item, Fault) else None


def left_out(data: DataConfig) -> Iterator[str]:
    """What a data set holds that is not read, in sentences.

    Raises:
      ReaderError: As `read_records`.
    """
    with _unusable(data):
        yield from _named_for_testing(Path(data.root).expanduser(), data)
        if data.source in ("folder", "mvtec"):
            yield from folders.left_out(data)
        elif data.source == "rows":
            yield from rows.left_out(data)


def with_bits(data: DataConfig) -> tuple[DataConfig, str]:
    """The data config with the depth of its wide images, where it says 0, and what was found, as a sentence.

    A data set that cannot be read stays as it is; whoever reads it tells why.
    """
    if data.bits:
        return data, ""
    try:
        root, names = image_files(data)
        found = find_depth(root, names)
    except (OSError, UserError):
        return data, ""
    if not found.count:
        return data, ""
    return dataclasses.replace(data, bits=found.bits), found.sentence(root)


def _named_for_testing(root: Path, data: DataConfig) -> Iterator[str]:
    """That images train of what its name says is for testing, where the data set has no split of its own."""
    if data.source in _JSON_SOURCES and root.is_file():
        name, cure = root.stem, "set data.root to what is to train, or data.test_fraction=1, which only tests on it"
    elif data.source == "folder" and OWN in folders.categories(data).values():
        name, cure = root.resolve().name, "set data.root to what is to train"
    else:
        return
    if is_for_testing(name) and (data.held_out or data.test_fraction < 1.0):
        yield f"{root}: is for testing by its name, and images of it train: {cure}"


def source_revision(data: DataConfig, seed: int) -> str:
    """SHA-256 of all that decides the records: files, vocabulary, config, seed, and the versions of the makers.

    Moving a data set leaves it as it is; changing, adding, renaming or removing one of its files does not.

    Returns:
      64 hexadecimal digits.

    Raises:
      ReaderError: As `read_records`.
    """
    fields = {name: value for name, value in dataclasses.asdict(data).items() if name not in _NOT_CONTENT}
    modules = (adpl_json, deeppcb, draw, folders, generated, listed, preferences)
    versions = {"readers": VERSION} | {module.__name__: module.VERSION for module in modules}
    if data.facts == "record":  # what a model writes stands beside the stored data set
        fields["facts"] = data.facts
    if data.language == "en":  # as before there were others
        del fields["language"]
    if data.bits in (0, 16):
        del fields["bits"]
    digest = hashlib.sha256(json.dumps([fields, versions, seed], sort_keys=True).encode())
    digest.update(repr(load_vocabulary(data.vocabulary)).encode())
    with _unusable(data):
        if data.source == "rows":
            digest.update(f"rows {rows.VERSION}".encode())
        for path in _lists(data):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        root, names = image_files(data)
        _digest_files(digest, root, names)
    return digest.hexdigest()


def _lists(data: DataConfig) -> Iterable[Path]:
    """The files that name a data set's images, or hold its texts."""
    match data.source:
        case "adpl":
            return (Path(data.root).expanduser(),)
        case "rows":
            return row_files.json_paths(data)
        case "visa" | "meta" | "real_iad":
            return listed.list_paths(data)
        case _:
            return ()


def image_files(data: DataConfig) -> tuple[Path, Iterable[str]]:
    """The folder of a data set's images, and the paths below it of every image, mask, reference and annotation."""
    root = Path(data.root).expanduser()
    match data.source:
        case "adpl":
            return images_root(data), adpl_json.files(data)
        case "rows":
            return row_files.images_root(data), rows.files(data)
        case "folder" | "mvtec":
            return root, folders.files(data)
        case "visa" | "meta" | "real_iad":
            return listed.images_root(data), listed.files(data)
        case "deeppcb":
            return root, deeppcb_boards.files(root)
        case _:
            return root, ()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


@contextlib.contextmanager
def _unusable(data: DataConfig) -> Iterator[None]:
    """Turns what a reader raises for a data set as a whole into a ReaderError that names its path and a cure."""
    cure = f"set data.root to the {data.source} data set" if data.is_read else "set data.root to the data set"
    try:
        if not data.is_read:  # the run found no reader for the name, since there is nothing to read
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), data.root)
        yield
    except OSError as error:
        named = error.filename or data.root
        raise ReaderError(f"{named}: {error.strerror or error}; {cure}") from error
    except UserError as error:
        raise ReaderError(str(error)) from error


def _read(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[Record | Fault]:
    """Records and faults as the sources give them, annotated images made into records."""
    vocabulary = load_vocabulary(data.vocabulary)
    if data.source == "adpl":
        yield from adpl_json.read_records(data, split, seed, vocabulary)
        return
    if data.source == "rows":
        yield from rows.read_records(data, split, seed, vocabulary)
        return
    kinds = _kinds(data)
    check = _ImageCheck(data)
    images = _images(data, split, seed)
    if data.register == "rigid":
        images = map(_registered, images)
    if split == "train" and data.drawn_defects:
        images = draw.with_drawn_defects(images, number=data.drawn_defects, variation=data.drawn_variation, seed=seed)
    for index, image in enumerate(images):
        fault = image if isinstance(image, Fault) else check(image)
        if fault is not None:
            yield fault
        elif not isinstance(image, Fault):
            yield from preferences.make_records(
                image,
                vocabulary,
                pair_types=data.pair_types,
                records=data.records_per_image,
                index=index,
                seed=seed,
                asked_present_rate=data.asked_present_rate if split == "train" else preferences.ASKED_PRESENT_RATE,
                kinds=kinds,
            )


def as_stored(data: DataConfig, seed: int) -> Iterator[AnnotatedImage | Fault]:
    """The images of the training split, with their references as they are stored: not moved, and nothing drawn."""
    return _images(data, "train", seed)


def _registered(image: AnnotatedImage | Fault) -> AnnotatedImage | Fault:
    """The image with its references moved to where its part lies; one that cannot be read is told by the check."""
    if isinstance(image, Fault) or image.reference_image is None:
        return image
    with contextlib.suppress(ImageFault):
        first = registered(image.test_image, image.reference_image, name=image.test_path)
        others = tuple(
            Reference(registered(image.test_image, each.image, name=image.test_path), each.path)
            for each in image.further_references
        )
        return dataclasses.replace(image, reference_image=first, further_references=others)
    return image


def _kinds(data: DataConfig) -> preferences.Kinds:
    """What the images of a data set show, all splits together; drawn kinds as often together as the labelled ones."""
    labelled = _labelled_kinds(data)
    if not data.drawn_defects:
        return labelled
    found: dict[str, dict[str, int]] = {}
    for category, counts in labelled.items():
        share = max(1, sum(counts.values()) // len(draw.kinds()))
        found[category] = {**dict.fromkeys(draw.kinds(), share), **counts}
    return found


def _labelled_kinds(data: DataConfig) -> preferences.Kinds:
    match data.source:
        case "deeppcb":
            return {deeppcb.CATEGORY: dict.fromkeys(deeppcb_boards.DEFECT_TYPES, 1)}
        case "folder" | "mvtec":
            return folders.kinds(data)
        case "visa" | "meta" | "real_iad":
            return listed.kinds(data)
        case _:
            return generated.kinds()


def _images(data: DataConfig, split: Literal["train", "test"], seed: int) -> Iterator[AnnotatedImage | Fault]:
    match data.source:
        case "deeppcb":
            return deeppcb.read_images(data, split, seed)
        case "folder" | "mvtec":
            return folders.read_images(data, split, seed)
        case "visa" | "meta" | "real_iad":
            return listed.read_images(data, split, seed)
        case _:
            return generated.draw(data, split, seed)


def file_and_line(record: Record, data: DataConfig) -> tuple[str, int | None]:
    """File and line at which a user finds a record: in the JSON of `adpl` and `rows`, else its test image."""
    if data.source in _JSON_SOURCES:
        return row_files.located(data, record.file), record.line
    return _located(data, record.test_path), record.line


def _located(data: DataConfig, path: str) -> str:
    """A path as a user finds it: below the data set's root, where there is one."""
    if data.source in ("generator", *_JSON_SOURCES):
        return path
    return str((listed.images_root(data) if data.source in ("meta", "real_iad") else Path(data.root)) / path)


class _ImageCheck:
    """Finds what is wrong with an annotated image; remembers ids, and images that were found whole."""

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self.paths: dict[str, str] = {}
        self.sizes: dict[bytes, tuple[int, ...]] = {}

    def __call__(self, image: AnnotatedImage) -> Fault | None:
        """The first fault of an image, None if it can be used."""
        file = _located(self.data, image.test_path)
        if image.image_id in self.paths:
            problem = f"has the same id as {self.paths[image.image_id]}: {image.image_id}"
            return Fault(file, None, problem, "rename one of the two")
        self.paths[image.image_id] = file
        try:
            size = self._size(image.test_image, image.test_path)
            if image.reference_image is not None:
                self._size(image.reference_image, image.reference_path)
            for reference in image.further_references:
                self._size(reference.image, reference.path)
            mask_size = size if image.mask is None else decode_mask(image.mask, name=f"mask of {image.test_path}").shape
        except ImageFault as error:
            return Fault(_located(self.data, error.name), None, error.problem, error.cure)
        if mask_size != size:
            problem = f"is {size[1]} x {size[0]} px, its mask {mask_size[1]} x {mask_size[0]}"
            return Fault(file, None, problem, "export image and mask at one size")
        for defect in image.defects:
            box = defect.box
            if defect.placed and not (0 <= box.left < box.right <= size[1] and 0 <= box.top < box.bottom <= size[0]):
                return Fault(file, None, f"{box} does not lie in the image", "correct the annotation")
        return None

    def _size(self, data: bytes, name: str) -> tuple[int, ...]:
        """Height and width of an image; decoded in full the first time, since a reference serves many images."""
        key = hashlib.sha256(data).digest()
        if key not in self.sizes:
            self.sizes[key] = decode_rgb(data, name=name).shape[:2]
        return self.sizes[key]


def _checked(record: Record, data: DataConfig, record_ids: set[str]) -> list[Record | Fault]:
    """The record, or everything wrong with it."""
    file, line = file_and_line(record, data) if data.source == "rows" else (_located(data, record.test_path), None)
    wanted: dict[str, Any] = (
        {"verdicts": False} if data.source == "rows" else {"num_questions": adpl_json.NUM_QUESTIONS}
    )
    faults: list[Record | Fault] = [
        dataclasses.replace(fault, file=file, line=line) for fault in validate(record, language=data.language, **wanted)
    ]
    if record.record_id in record_ids:
        faults.append(Fault(file, None, f"record id {record.record_id} occurs twice", "give each record its own id"))
    record_ids.add(record.record_id)
    return faults or [record]


def _digest_files(digest: _Digest, root: Path, names: Iterable[str]) -> None:
    """Adds the name and content of every file, in the order of names; a missing one by its name."""
    for name in sorted(set(names)):
        try:
            content = hashlib.sha256(read_inside(root, name)).hexdigest()
        except ImageFault:
            content = "unreadable"
        digest.update(f"{name!a}\n{content}\n".encode())
