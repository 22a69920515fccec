"""The `check` stage: what a data set holds, and everything that is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Final, Literal

import rich.console
import rich.markup
import rich.table

from sage_jax.config import DataConfig
from sage_jax.data.causes import by_cause
from sage_jax.data.copies import Thumbnails, copied
from sage_jax.data.doubts import Doubts
from sage_jax.data.progress import progress_bar
from sage_jax.data.question_verdicts import READERS, QuestionVerdicts, TextOnly, text_only_by_kind
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources import readers
from sage_jax.process import signals
from sage_jax.process.signals import Interrupted
from sage_jax.verdict import Language, parse_verdict

VERDICTS: Final = ("yes", "no", "none")
"""What a best answer opens with."""

SPLITS: Final[tuple[Literal["train", "test"], ...]] = ("train", "test")


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """Numbers of one split. Images are counted once however many records they have.

    Attributes:
      images, good, defective, unlabelled: Images, and how many the source calls good, defective, or neither.
      with_reference, with_mask: Images that have one.
      records, with_facts, with_scores: Records; those with facts; those whose every answer has a judge score.
    """

    images: int
    good: int
    defective: int
    unlabelled: int
    with_reference: int
    with_mask: int
    records: int
    with_facts: int
    with_scores: int


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a data set holds.

    Attributes:
      revision: Content hash of the data set under this config and seed.
      questions: Number of questions by split, kind, category, and verdict of the best answer (`yes`, `no` or `none`).
      splits: Numbers of each split.
      faults: Everything that is wrong, each once, in the order of reading.
      left_out: What the data set holds that is not read, or may be meant otherwise, in sentences.
      doubts: Labels, masks, references and ranks that contradict each other, in sentences.
      images: Hashes of the images of each split.
      without_image: What readers of the test questions get who know the training questions and see no image, by what
        they go by (READERS) and kind of question.
    """

    revision: str
    questions: dict[tuple[str, str, str, str], int]
    splits: dict[str, SplitCounts]
    faults: tuple[Fault, ...]
    without_image: dict[str, dict[str, TextOnly]] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    images: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def trains_on_tests_of(self, other: CheckReport) -> int:
        """Training images of this data set that are test images of another one, to the byte."""
        return len(self.images.get("train", set()) & other.images.get("test", set()))

    @property
    def given_away(self) -> list[str]:
        """The readers without the image who are above chance, in words; none where the questions are fair.

        Nor where all test images are good, or all defective: then their questions need no telling apart.
        """
        tested = self.splits.get("test")
        if tested is not None and not (tested.good and tested.defective) and not tested.unlabelled:
            return []
        return [
            f"{kind}: a reader of the {reads} alone is right in {found.accuracy:.3f}, chance is {found.chance:.3f}"
            for reads, kinds in self.without_image.items()
            for kind, found in kinds.items()
            if found.tells
        ]


def check(config: DataConfig, seed: int) -> CheckReport:
    """Reads both splits of a data set to the end and counts, with a progress bar on the standard error.

    Counts are of what the config draws; faults of all that the data set holds.

    Raises:
      ReaderError: The data set as a whole cannot be used.
      Interrupted: A signal has come.
    """
    questions: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
    splits: dict[str, SplitCounts] = {}
    faults: dict[Fault, None] = {}
    blind, doubts, thumbnails = _Blind(config.language), Doubts(config.language), Thumbnails()
    with progress_bar(transient=True) as progress:
        for split in SPLITS:
            num_images = config.num_train if split == "train" else config.num_test
            total = (
                num_images * config.records_per_image if config.source not in ("adpl", "rows") and num_images else None
            )
            task = progress.add_task(f"check {split}", total=total)
            tally = _Tally()
            for item in readers.read_records(config, split, seed):
                if signals.requested():
                    raise Interrupted("stopped while the data set was checked")
                if isinstance(item, Fault):
                    faults.setdefault(item)
                else:
                    tally.add(item)
                    questions.update(_verdicts(split, item, config.language))
                    blind.add(split, item)
                    doubts.add(split, item)
                    thumbnails.add(split, item)
                progress.advance(task)
            splits[split] = tally.counts()
            task = progress.add_task(f"check all of {split}", total=None)
            for fault in readers.undrawn_faults(config, split, seed):
                if fault is not None:
                    faults.setdefault(fault)
                progress.update(task, advance=1)
    again = _copies(config, seed, thumbnails)
    return CheckReport(
        revision=readers.source_revision(config, seed),
        questions=dict(questions),
        splits=splits,
        faults=tuple(faults),
        without_image=blind.found(),
        left_out=tuple(readers.left_out(config)),
        doubts=(*doubts.sentences(), *again),
        images=doubts.images,
    )


def _copies(config: DataConfig, seed: int, thumbnails: Thumbnails) -> tuple[str, ...]:
    """What test images are training images saved again, in a sentence; the data set is read again for candidates alone.

    Raises:
      Interrupted: A signal has come.
    """

    def records() -> Iterator[Record]:
        for split in SPLITS:
            for item in readers.read_records(config, split, seed):
                if signals.requested():
                    raise Interrupted("stopped while the data set was checked for copies")
                if isinstance(item, Record):
                    yield item

    found = copied(list(thumbnails.candidates()), records())
    if not found:
        return ()
    tested, trained = map(thumbnails.path, found[0])
    return (
        f"{len(found)} test images are training images saved again (another format, quality or size): metrics on them "
        f"prove nothing; the first: {tested} is {trained}",
    )


def print_report(report: CheckReport, console: rich.console.Console | None = None) -> None:
    """Prints the tables of counts, then the faults with place and cure, those of one cause in one row with a count."""
    console = console or rich.console.Console()
    table = rich.table.Table("split", "kind", "category", title="Questions by verdict of the best answer")
    verdicts = [name for name in VERDICTS if name != "none" or any(key[3] == name for key in report.questions)]
    for name in (*verdicts, "sum"):
        table.add_column(name, justify="right")
    for split, kind, category in sorted({key[:3] for key in report.questions}):
        counts = [report.questions.get((split, kind, category, verdict), 0) for verdict in verdicts]
        table.add_row(split, kind, rich.markup.escape(category), *map(str, counts), str(sum(counts)))
    console.print(table)
    table = rich.table.Table("", title="Images and records")
    for split in report.splits:
        table.add_column(split, justify="right")
    for field in dataclasses.fields(SplitCounts):
        numbers = (getattr(counts, field.name) for counts in report.splits.values())
        table.add_row(field.name.replace("_", " "), *map(str, numbers))
    console.print(table)
    if report.without_image:
        console.print(_without_image_table(report))
    console.print(f"revision {report.revision}", highlight=False)
    for sentence in report.left_out:
        console.print(f"note: {sentence}", markup=False, highlight=False, soft_wrap=True)
    for sentence in report.doubts:
        console.print(f"doubt: {sentence}", markup=False, highlight=False, soft_wrap=True)
    causes = by_cause(report.faults)
    if causes:
        of = f" of {len(causes)} cause{'s' if len(causes) > 1 else ''}" if len(causes) < len(report.faults) else ""
        console.print(f"{len(report.faults)} fault{'s' if len(report.faults) > 1 else ''}{of}:", style="bold red")
    for cause in causes:
        console.print(str(cause), markup=False, highlight=False, soft_wrap=True)
    if not report.faults:
        console.print("no faults", style="bold green")


def _without_image_table(report: CheckReport) -> rich.table.Table:
    table = rich.table.Table("kind", title="Right verdicts without the image, on the test questions")
    for name in (*report.without_image, "chance"):
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(kind for kinds in report.without_image.values() for kind in kinds):
        found = [kinds[kind] for kinds in report.without_image.values()]
        shares = (f"{each.accuracy:.3f}{' !' if each.tells else ''}" for each in found)
        table.add_row(kind, *shares, f"{found[0].chance:.3f}")
    return table


class _Blind:
    """Readers without the image: they learn from the training questions and are asked the test questions."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self.known = {reads: QuestionVerdicts() for reads in READERS}
        self.asked: dict[str, list[tuple[str, str, bool]]] = {reads: [] for reads in READERS}

    def add(self, split: str, record: Record) -> None:
        for reads, text_of in READERS.items():
            if split == "train":
                self.known[reads].add(record, reads, language=self.language)
                continue
            for question in record.questions:
                truth = parse_verdict(question.answers[0].text, self.language)
                if truth is not None:
                    self.asked[reads].append((record.pair_type, text_of(record, question), truth))

    def found(self) -> dict[str, dict[str, TextOnly]]:
        """By reader and kind; empty without test questions."""
        return {reads: text_only_by_kind(self.known[reads], asked) for reads, asked in self.asked.items() if asked}


class _Tally:
    """Counts of one split while it is read."""

    def __init__(self) -> None:
        self.image_ids: set[str] = set()
        self.numbers: collections.Counter[str] = collections.Counter()

    def add(self, record: Record) -> None:
        answers = [answer for question in record.questions for answer in question.answers]
        self.numbers["records"] += 1
        self.numbers["with_facts"] += bool(record.facts)
        self.numbers["with_scores"] += all(answer.score is not None for answer in answers)
        if record.image_id in self.image_ids:
            return
        self.image_ids.add(record.image_id)
        self.numbers["images"] += 1
        self.numbers["unlabelled" if record.anomalous is None else "defective" if record.anomalous else "good"] += 1
        self.numbers["with_reference"] += record.reference_image is not None
        self.numbers["with_mask"] += record.mask is not None

    def counts(self) -> SplitCounts:
        return SplitCounts(**{field.name: self.numbers[field.name] for field in dataclasses.fields(SplitCounts)})


def _verdicts(split: str, record: Record, language: Language) -> list[tuple[str, str, str, str]]:
    """Where each question of a record counts."""
    verdicts = (parse_verdict(question.answers[0].text, language) for question in record.questions)
    names = {True: "yes", False: "no", None: "none"}
    return [(split, record.pair_type, record.category, names[verdict]) for verdict in verdicts]
