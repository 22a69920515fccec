"""AD-PL records as a TFDS data set (ArrayRecord), built once, kept by content and read at random."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, overload

import numpy as np
import tensorflow_datasets as tfds
from rich.progress import Progress
from transformers import PreTrainedTokenizerFast

from sage_jax.config import ConfigError, DataConfig, TextConfig
from sage_jax.data.causes import told
from sage_jax.data.progress import progress_bar
from sage_jax.data.question_verdicts import QuestionVerdicts
from sage_jax.data.records import Answer, Box, Defect, Fault, Question, Record, Reference
from sage_jax.data.sources import readers
from sage_jax.data.trees import tokenizer as tokens
from sage_jax.data.trees.chat import chat_template
from sage_jax.data.trees.encode import RecordCounts
from sage_jax.errors import UserError
from sage_jax.process import signals
from sage_jax.process.checksums import damaged, write_checksums
from sage_jax.process.files import replace_file, temporary_folder
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.process.signals import Interrupted

Split = Literal["train", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "test")

_FAULTS_FILE = "faults.jsonl"
COUNTS_FILE = "counts.json"
VERDICTS_FILE = "verdicts.json"
_IMAGES = ("test_image", "reference_image", "mask")
_MORE_IMAGES = "further_references"


class StoredDataError(UserError):
    """A stored data set that is damaged; the message says what to delete."""


class DataFaultError(UserError):
    """A data set with faults, under `on_bad_record = "fail"`; the message has a row for each cause."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        rows = told(faults, most=10)
        super().__init__(f"{rows}. The check stage lists every fault; data.on_bad_record=skip leaves bad records out")
        self.fault = faults[0]


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """A built data set.

    Attributes:
      path: Folder of the data set's files.
      revision: Hash of what it was built from, hexadecimal.
      trained_tokenizer: Trained on the training split's text; None where there is none.
      num_train: Training records.
      num_test: Test records.
    """

    path: Path
    revision: str
    trained_tokenizer: PreTrainedTokenizerFast | None
    num_train: int
    num_test: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Trained on the training split's text.

        Raises:
          ConfigError: There is no training record.
        """
        if self.trained_tokenizer is None:
            raise ConfigError(
                "data: there is no training record; a model that is trained from nothing has its tokenizer from those "
                "of data.root: check data.root, data.held_out, data.test_fraction and data.num_train, or start from "
                "model.weights or start_from"
            )
        return self.trained_tokenizer


class Adpl(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: encoded images as bytes, everything else of a record as JSON."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.1.0": "Counts of the training questions' verdicts.",
        "1.2.0": "Several references of an image.",
    }
    url_infos = {}  # nothing is downloaded: without this, TFDS looks for a checksum file beside this one

    def __init__(self, splits: Mapping[str, Iterable[Record]], *, data_dir: str) -> None:
        """Takes the records of each split; they are read once, while the data set is written."""
        self._splits = splits
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        encoded = tfds.features.Tensor(shape=(), dtype=np.object_)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Industrial inspection: image pairs, questions and ranked answers (AD-PL form).",
            features=tfds.features.FeaturesDict(
                {
                    **dict.fromkeys(_IMAGES, encoded),
                    _MORE_IMAGES: tfds.features.Sequence(encoded),
                    "record": tfds.features.Text(),
                },
            ),
            disable_shuffling=True,  # the stream shuffles; stored order is the source's
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(records) for name, records in self._splits.items()}

    def _generate_examples(self, records: Iterable[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, record in enumerate(records):
            yield key, encode_record(record)


class StoredRecords(Sequence[Record]):
    """The records of one split, read from disk when asked for; safe to hand to worker processes.

    Attributes:
      counts: The most questions, answers and references of any record.
    """

    def __init__(self, path: Path, split: Split) -> None:
        self._path = path
        self._split: Split = split
        stored = json.loads((path / COUNTS_FILE).read_text())[split]
        self._length = int(stored.pop("records"))
        self.counts = RecordCounts(**{"references": 1, **stored})  # data sets of old do not say
        self._source: Any = None

    def __reduce__(self) -> tuple[type[StoredRecords], tuple[Path, Split]]:
        return StoredRecords, (self._path, self._split)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            if self._source is None:
                builder: Any = tfds.builder_from_directory(str(_dataset_dir(self._path)))
                self._source = builder.as_data_source(self._split)
            return decode_record(self._source[index % len(self)])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, IndexError) as error:
            raise_if_lacking(error, _dataset_dir(self._path))
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoredDataError(
                f"{_dataset_dir(self._path)}: record {index} of split {self._split!r} cannot be read, the data set is "
                f"damaged ({why}): delete {self._path}, and the next run builds it again"
            ) from error


def encode_record(record: Record) -> dict[str, Any]:
    """A record as stored: images as bytes (empty = none), the rest as JSON."""
    rest = dataclasses.asdict(record)
    images: dict[str, Any] = {name: rest.pop(name) or b"" for name in _IMAGES}
    images[_MORE_IMAGES] = [each.pop("image") for each in rest[_MORE_IMAGES]]
    return {**images, "record": json.dumps(rest, ensure_ascii=False, separators=(",", ":"))}


def decode_record(stored: dict[str, Any]) -> Record:
    """The record that `encode_record` stored."""
    rest = json.loads(stored["record"])
    return Record(
        **{
            **rest,
            "test_image": stored["test_image"],
            "reference_image": stored["reference_image"] or None,
            "mask": stored["mask"] or None,
            _MORE_IMAGES: tuple(
                Reference(image, each["path"])
                for image, each in zip(stored[_MORE_IMAGES], rest[_MORE_IMAGES], strict=True)
            ),
            "facts": tuple(rest["facts"]),
            "questions": _questions(rest["questions"]),
            "descriptions": _questions(rest["descriptions"]),
            "defects": tuple(Defect(each["type"], Box(**each["box"])) for each in rest["defects"]),
        }
    )


def prepare(data: DataConfig, text: TextConfig, *, seed: int, run_dir: Path) -> PreparedData:
    """Builds data set and tokenizer once; later calls with the same content find them in `data.cache_dir`.

    Both appear whole or not at all: an interrupted build is never used. Faults are kept with the data set, so that a
    cached one treats them as a fresh one does. With `on_bad_record = "skip"` they are listed in
    `run_dir`/skipped_records.jsonl.

    Args:
      data: Source, cache and what to do about faults.
      text: Vocabulary size, and the prompts of the tokenizer's chat template.
      seed: Of generated data and of splits drawn by hash.
      run_dir: Folder of the run.

    Raises:
      DataFaultError: The source has a fault, and `on_bad_record` is `fail`.
      ConfigError: The source has no record at all, or `data.cache_dir` cannot be written.
      Interrupted: A signal has come; no part of a data set stays.
    """
    revision = readers.source_revision(data, seed)
    key = hashlib.sha256(f"{revision} adpl {Adpl.VERSION}".encode()).hexdigest()[:24]
    path = Path(data.cache_dir).expanduser() / key
    if path.is_dir() and (bad := damaged(path, listed=True)):
        _discard(path, bad)
    if not path.is_dir():
        _build(data, seed, path)
    _report_faults(path, data, run_dir)
    train, test = (StoredRecords(path, split) for split in SPLITS)
    if not len(train) + len(test):
        raise ConfigError(f"data: {data.source} gives no record; check data.root and data.held_out")
    tokenizer = _tokenizer(path, data, text, train) if len(train) else None
    return PreparedData(path, revision, tokenizer, len(train), len(test))


def open_split(prepared: PreparedData, split: Split) -> StoredRecords:
    """Random access to the records of a split."""
    return StoredRecords(prepared.path, split)


def train_verdicts(prepared: PreparedData) -> QuestionVerdicts:
    """How often each question of the training records was answered yes and no."""
    return QuestionVerdicts(json.loads((prepared.path / VERDICTS_FILE).read_text()))


def _build(data: DataConfig, seed: int, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_folder(path)
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir = {data.cache_dir!r} cannot be written: {error.strerror or error}; name another folder"
        ) from None
    try:
        tfds.disable_progress_bar()
        # TFDS announces a download; there is none.
        with progress_bar() as progress, contextlib.redirect_stdout(io.StringIO()):
            intakes = {split: _Intake(data, split, seed, progress) for split in SPLITS}
            streams = {name: _unless_empty(intake) for name, intake in intakes.items()}
            splits = {name: stream for name, stream in streams.items() if stream is not None}
            if splits:
                Adpl(splits, data_dir=str(partial / "tfds")).download_and_prepare()
        if signals.requested():
            raise Interrupted("stopped while the data set was built; nothing of it is kept")
        counts = {
            name: {"records": intake.num_records, **dataclasses.asdict(intake.counts)}
            for name, intake in intakes.items()
        }
        (partial / COUNTS_FILE).write_text(json.dumps(counts))
        (partial / VERDICTS_FILE).write_text(json.dumps(intakes["train"].verdicts.counts, ensure_ascii=False))
        found = dict.fromkeys(fault for intake in intakes.values() for fault in intake.faults)
        faults = [json.dumps(dataclasses.asdict(fault)) for fault in found]
        (partial / _FAULTS_FILE).write_text("".join(f"{line}\n" for line in faults))
        # Records have checksums of their own; all that stands beside them is small.
        small = (file for file in partial.rglob("*") if file.is_file() and ".array_record" not in file.name)
        write_checksums(partial, [str(file.relative_to(partial)) for file in small])
        os.rename(partial, path)
    except OSError:
        # Another process was first; what it built has the same content.
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _discard(path: Path, bad: list[str]) -> None:
    """Takes a damaged data set out of the way, so that it is built again."""
    print(f"{path / bad[0]} is damaged: the data set is built again", file=sys.stderr)
    aside = temporary_folder(path)
    with contextlib.suppress(OSError):  # another process was first
        os.rename(path, aside / path.name)
    shutil.rmtree(aside, ignore_errors=True)


class _Intake(Iterable[Record]):
    """The good records of a split on their way to disk; counts them and gathers the faults."""

    def __init__(self, data: DataConfig, split: Split, seed: int, progress: Progress) -> None:
        self._data, self._seed, self._progress = data, seed, progress
        self._split: Split = split
        self.counts = RecordCounts()
        self.verdicts = QuestionVerdicts()
        self.num_records = 0
        self.faults: list[Fault] = []

    def __iter__(self) -> Iterator[Record]:
        images = self._data.num_train if self._split == "train" else self._data.num_test
        # How many good ones they are drawn of, it tells.
        drawn = self._data.drawn_defects > 0 and self._split == "train"
        most = None if drawn else images * self._data.records_per_image or None
        task = self._progress.add_task(f"{self._split} records", total=most)
        for found in readers.read_records(self._data, self._split, self._seed):
            self._progress.advance(task)
            if signals.requested():
                return  # what TFDS is in the middle of ends in order; _build tells
            if isinstance(found, Fault):
                self.faults.append(found)
                continue
            self.num_records += 1
            self.counts = self.counts.including(found)
            self.verdicts.add(found, language=self._data.language)
            yield found
        self._progress.update(task, total=self.num_records + len(self.faults))


def _unless_empty(records: Iterable[Record]) -> Iterable[Record] | None:
    """The same records, or None where there are none: TFDS writes no empty split."""
    stream = iter(records)
    for first in stream:
        return itertools.chain([first], stream)
    return None


def _report_faults(path: Path, data: DataConfig, run_dir: Path) -> None:
    lines = (path / _FAULTS_FILE).read_text().splitlines()
    if not lines:
        (run_dir / "skipped_records.jsonl").unlink(missing_ok=True)  # of an earlier run, on other data
        return
    if data.on_bad_record == "fail":
        raise DataFaultError([Fault(**json.loads(line)) for line in lines])
    replace_file(run_dir / "skipped_records.jsonl", "".join(f"{line}\n" for line in lines))


def _tokenizer(path: Path, data: DataConfig, text: TextConfig, train: Sequence[Record]) -> PreTrainedTokenizerFast:
    template = chat_template(text)
    prompts = (text.system, text.assist_prompt)
    key = json.dumps([tokens.VERSION, text.vocab_size, template, prompts])
    folder = path / f"tokenizer-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if folder.is_dir() and damaged(folder, listed=True):
        shutil.rmtree(folder)
    if not folder.is_dir():
        trained = tokens.train_tokenizer(_corpus(train, prompts), text.vocab_size, data.language)
        trained.chat_template = template
        tokens.save_tokenizer(trained, folder)
    return tokens.load_tokenizer(folder)


def _corpus(records: Sequence[Record], prompts: Iterable[str]) -> Iterator[str]:
    yield from (f"{role}\n{prompt}" for role in ("system", "user", "assistant") for prompt in prompts)
    for index in range(len(records)):
        record = records[index]
        yield from record.facts
        for question in (*record.questions, *record.descriptions):
            yield question.text
            yield from (answer.text for answer in question.answers)


def _questions(stored: list[dict[str, Any]]) -> tuple[Question, ...]:
    return tuple(Question(each["text"], tuple(Answer(**answer) for answer in each["answers"])) for each in stored)


def _dataset_dir(path: Path) -> Path:
    return path / "tfds" / "adpl" / str(Adpl.VERSION)
