"""Inspection of a user's images: verdict, score, reason, map; a JSONL, overlay pictures and one HTML report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import jax
import numpy as np

from sage_jax.config import ConfigError
from sage_jax.data.facts import Vocabulary
from sage_jax.data.images import SUFFIXES, ImageFault, decode_rgb
from sage_jax.data.records import PAIR_TYPES, Record
from sage_jax.evaluate import Examination, anomaly_map, inspection_record
from sage_jax.files import replace_file
from sage_jax.generate import Answers
from sage_jax.metrics.localisation import peak_boxes
from sage_jax.report import InspectionRow, overlay, picture, write_report, write_rows_jsonl
from sage_jax.run_config import InspectConfig
from sage_jax.run_log import RunLog

_LIST_SUFFIXES: Final = (".txt", ".lst", ".list")


@dataclasses.dataclass(frozen=True)
class Subject:
    """An image to inspect, or why it cannot be."""

    path: str
    category: str
    record: Record | None
    error: str = ""


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
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
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

    In a folder, an image's reference is the file of the same name or, without one, the folder's first image. Each is
    read once, however many images it serves.

    Raises:
      ConfigError: There is no such file, or no image in the folder.
    """

    def __init__(self, references: str):
        self._files: dict[str, Path] = {}
        self._first: Path | None = None
        self._read: dict[Path, bytes] = {}
        if not references:
            return
        path = Path(references).expanduser()
        if not path.exists():
            raise ConfigError(f"inspect.references = {references!r}: no such file or folder")
        files = [path] if path.is_file() else _images_under(path)
        if not files:
            raise ConfigError(f"inspect.references = {references!r}: no image in it")
        self._files = {each.name: each for each in reversed(files)}
        self._first = files[0]

    def of(self, image: Path) -> tuple[str, bytes] | None:
        """Path and content of an image's reference; None = zero-shot.

        Raises:
          OSError, ImageFault: It cannot be read.
        """
        path = self._files.get(image.name, self._first)
        if path is None:
            return None
        if path not in self._read:
            content = path.read_bytes()
            decode_rgb(content, name=f"reference {path}")
            self._read[path] = content
        return str(path), self._read[path]


def read_subjects(config: InspectConfig, vocabulary: Vocabulary) -> list[Subject]:
    """The user's images with their references; one that cannot be read carries its error.

    Raises:
      ConfigError: Paths that cannot be, before any work.
    """
    references = References(config.references)
    return [_read(path, references, config.category, vocabulary) for path in find_images(config.images)]


def sample_subjects(records: Sequence[Record], wanted: int) -> list[Subject]:
    """Test records to show what inspection gives: distinct images, as many defective as good where there are."""
    distinct = list({record.image_id: record for record in records}.values())
    defective = [record for record in distinct if record.anomalous]
    good = [record for record in distinct if not record.anomalous]
    half = min(len(defective), max(wanted // 2, wanted - len(good)))
    chosen = {record.record_id for record in (*defective[:half], *good[: wanted - half])}
    return [Subject(each.test_path, each.category, each) for each in distinct if each.record_id in chosen]


def inspect(
    subjects: Sequence[Subject], examination: Examination, *, stage: str, output: Path, log: RunLog
) -> list[InspectionRow]:
    """Answers for every subject; writes `inspection.jsonl`, `overlays/` and `report.html` under `output`.

    Returns:
      One row a subject, in their order.
    """
    config = examination.config.inspect
    rows: dict[int, InspectionRow] = {}
    for index, subject in enumerate(subjects):
        if subject.record is None:
            rows[index] = InspectionRow(subject.path, subject.category, "unreadable", None, "", error=subject.error)
    readable = [index for index, subject in enumerate(subjects) if subject.record is not None]
    with log.progress(len(readable), unit="image") as advance:
        for index, answers, record in _answered(subjects, readable, examination):
            rows[index] = _row(index, record, answers, examination, output)
            advance(len(rows) - (len(subjects) - len(readable)))
    ordered = [rows[index] for index in range(len(subjects))]
    if jax.process_index() > 0:
        return ordered
    write_rows_jsonl(output / "inspection.jsonl", ordered)
    one_shot = sum(row.reference_png is not None for row in ordered)
    facts = {
        "Model": f"{stage} of {examination.config.run_dir}",
        "Images": str(len(ordered)),
        "With reference": str(one_shot),
    }
    write_report(output / "report.html", ordered, title="Inspection report", facts=facts, threshold=config.threshold)
    return ordered


def _images_under(folder: Path) -> list[Path]:
    """Image files of a folder and its subfolders; hidden ones (as macOS leaves beside real ones) do not count."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _read(path: Path, references: References, category: str, vocabulary: Vocabulary) -> Subject:
    name = os.fsencode(path).decode("utf-8", "replace")  # a file name need not be text; the report must be
    category = category or (path.parent.name if path.parent.name.replace("_", " ") in vocabulary.objects else "part")
    try:
        test_image = path.read_bytes()
        decode_rgb(test_image, name=name)
        reference = references.of(path)
    except (OSError, ImageFault) as error:
        reason = f"{name}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return Subject(name, category, None, reason)
    record = Record(
        record_id=name,
        image_id=name,
        test_image=test_image,
        reference_image=None if reference is None else reference[1],
        category=category,
        pair_type=PAIR_TYPES[0],
        facts=vocabulary.facts_for(category),
        questions=(),
        descriptions=(),
        anomalous=None,
        defects=(),
        mask=None,
        test_path=name,
        reference_path="" if reference is None else reference[0],
    )
    return Subject(name, category, record)


def _answered(
    subjects: Sequence[Subject], readable: Sequence[int], examination: Examination
) -> Iterator[tuple[int, Answers, Record]]:
    """Subjects with a reference one-shot, the others zero-shot."""
    for one_shot in (True, False):
        chosen = [
            i for i in readable if (record := subjects[i].record) and (record.reference_image is not None) is one_shot
        ]
        asked = [inspection_record(record) for i in chosen if (record := subjects[i].record)]
        if asked:
            for index, (record, answers) in zip(
                chosen, examination.answers(asked, with_reference=one_shot), strict=True
            ):
                yield index, answers, record


def _row(index: int, record: Record, answers: Answers, examination: Examination, output: Path) -> InspectionRow:
    config = examination.config
    score = float(answers.verdict_score[0])
    verdict: Literal["defective", "good"] = "defective" if score >= config.inspect.threshold else "good"
    image, found = anomaly_map(record, np.asarray(answers.similarity), config.model)
    row = InspectionRow(
        image=record.test_path,
        category=record.category,
        verdict=verdict,
        score=score,
        reason=examination.chat.decode(np.asarray(answers.token_ids[0])),
        test_png=picture(image),
        truth=None if record.anomalous is None else ("defective" if record.anomalous else "good"),
    )
    if record.reference_image is None:
        return row
    boxes = tuple(peak_boxes(found, threshold=config.inspect.map_threshold, max_boxes=5))
    drawn = picture(overlay(image, np.clip(found, 0.0, 1.0), boxes))
    path = output / "overlays" / f"{index:05d}_{Path(record.test_path).stem[:80]}.png"
    if jax.process_index() == 0:
        replace_file(path, drawn)
    reference = decode_rgb(record.reference_image, name=record.reference_path)
    return dataclasses.replace(
        row, boxes=boxes, reference_png=picture(reference), overlay_png=drawn, overlay_path=str(path)
    )
