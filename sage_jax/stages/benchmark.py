"""Stage `benchmark`: a model's answers to a public question set, with as many references as are asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import jax

from sage_jax.benchmark.answer import Questioner, stamp_of
from sage_jax.benchmark.images import check_images, images_root
from sage_jax.benchmark.items import LETTER_ALONE, AskForm, Item, ItemRecords, drawn
from sage_jax.benchmark.journal import AnswerJournal
from sage_jax.benchmark.manta import read_manta
from sage_jax.benchmark.mmad import read_mmad
from sage_jax.benchmark.question_json import QuestionSet
from sage_jax.benchmark.results import (
    ShotResults,
    choice_results,
    load_results,
    record_results,
    verdict_results,
    write_answers,
    write_official,
)
from sage_jax.config import BenchmarkConfig, Config, ConfigError
from sage_jax.data.causes import by_cause, rows_of
from sage_jax.data.records import Fault
from sage_jax.data.written_facts import image_key
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.process.files import replace_file
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import StopRequest, Watch
from sage_jax.stages.facts import written_facts
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Run, Stage, StageCost

_READERS: Final[dict[str, Callable[[BenchmarkConfig], QuestionSet]]] = {"mmad": read_mmad, "manta": read_manta}
_INSTRUCTIONS: Final = {"mmad": LETTER_ALONE, "manta": ""}
_SHOWN: Final = 10


@dataclasses.dataclass(frozen=True)
class _Questions:
    """The items that are asked.

    Attributes:
      items: Whose images are all good.
      digests: SHA-256 of each image, by path.
      revision: Hash of the set's files and of the images asked about.
      left_out: Items left out for their faults.
      facts: What a model has written about each image, by path; empty = nothing.
    """

    items: list[Item]
    digests: dict[str, str]
    revision: str
    left_out: int
    facts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def benchmark(stage: Stage) -> StageCost:
    """Asks a model all questions with each number of references; writes answers, MMAD's own file and the metrics.

    Raises:
      ConfigError: The set has faults and `data.on_bad_record` is `fail`, or the stage that is to answer is not trained.
      TreeError: A question does not fit the model.
    """
    run, log, options = stage.run, stage.log, stage.config.benchmark
    name = run.trained.to_answer(options.stage, wanted_by=stage.name)
    log_changes(stage, name)
    load_results(benchmark_folder(run) / "summary.json")  # if it is damaged, before any work
    try:
        questions = _questions(stage)
        if stage.config.data.facts == "model":
            questions = _with_facts(stage, questions)
    except Interrupted as stopped:
        return StageCost(interrupted=str(stopped))
    evaluator = run.evaluator(name, run.weights.answering(name, wanted_by=stage.name), use_up=True)
    if max(options.shots) and not _sees_references(run, name):
        log.line(
            "note: the fusion of these weights is fresh and compares nothing: show a reference in the prompt with "
            "--config.text.reference=prompt"
        )
    anew = before = 0
    for shots in options.shots:
        items = [item for item in questions.items if len(item.references) >= shots]
        if not items:
            log.line(f"{shots}-shot: no item names a reference; nothing to ask")
            continue
        answered = _answer(stage, name, evaluator, questions, items, shots)
        anew, before = anew + answered.anew, before + len(items) - answered.left - answered.anew
        if answered.left:
            why = f"stage benchmark stopped {shots}-shot with {answered.left} of {len(items)} items left; the answers"
            return StageCost(resumed=before > 0, interrupted=f"{why} to the others are saved")
    return StageCost(worked=anew > 0, resumed=before > 0, counts={"items_answered": anew})


def _sees_references(run: Run, name: str) -> bool:
    fresh = run.trained.is_imported(name) and run.checkpoint is not None and not run.checkpoint.has_fusion
    return run.config.text.reference == "prompt" or not fresh


def check_benchmark(config: Config) -> None:
    """Checks what can be without images: the set, its files, and that the model can be shown so many references.

    Raises:
      ConfigError: The set cannot be read or has faults, or the model sees one reference alone.
    """
    options = config.benchmark
    if not options.root:
        raise ConfigError(
            "benchmark.root is empty: name the JSON file of the questions, mmad.json or <domain>_QA.json, with "
            "--config.benchmark.root=FILE"
        )
    if config.text.reference == "prompt" and max(options.shots) > 1:
        raise ConfigError(
            f"benchmark.shots = {options.shots}: text.reference = 'prompt' shows one reference at most: give 0, 1 or "
            "both"
        )
    root = images_root(options)
    if not root.is_dir():
        raise ConfigError(f"benchmark.images_root = {str(root)!r}: no such folder")
    found = _READERS[options.name](options)
    _refuse(found.faults, config)
    if not found.items:
        raise ConfigError(f"benchmark.root: {options.root} has no item without a fault")


def benchmark_folder(run: Run) -> Path:
    """Folder of the results."""
    options = run.config.benchmark
    return run.folder.path / "benchmarks" / (options.folder or options.name)


def _with_facts(stage: Stage, questions: _Questions) -> _Questions:
    """The questions with the facts that the start model writes about each image, once."""
    first = {item.image: item for item in reversed(questions.items)}
    records = ItemRecords([*first.values()], AskForm(images_root(stage.config.benchmark), 0), stage.run.vocabulary)
    found = written_facts(stage, len(records), lambda index: records[index])
    told = {path: found.get(image_key(records[index].test_image), ()) for index, path in enumerate(first)}
    return dataclasses.replace(questions, facts=told)


def _refuse(faults: Sequence[Fault], config: Config) -> None:
    if not faults or config.data.on_bad_record == "skip":
        return
    shown = rows_of(by_cause(faults), _SHOWN)
    noun = "fault" if len(faults) == 1 else "faults"
    raise ConfigError(
        f"{len(faults)} {noun} in the questions: {shown}\nMend them, or leave those items out with "
        "--config.data.on_bad_record=skip"
    )


def _questions(stage: Stage) -> _Questions:
    """Reads the set and its images; writes `skipped.jsonl` where items are left out."""
    run, log, config = stage.run, stage.log, stage.config
    options, root = config.benchmark, images_root(config.benchmark)
    found = _READERS[options.name](options)
    _refuse(found.faults, config)
    chosen = drawn(found.items, options.num_questions, options.seed)
    with StopRequest(log.line, run.mesh, after="this image") as stop:
        watch = Watch("the images of the questions were read", log.progress, stop)
        checked = check_images(chosen, root, shots=max(options.shots), progress=watch.progress)
    _refuse(checked.faults, config)
    for note in found.notes:
        log.line(f"note: {note}")
    faults = [*found.faults, *checked.faults]
    left_out = len(chosen) - len(checked.items) + len(found.faults)
    if faults:
        path = benchmark_folder(run) / "skipped.jsonl"
        if jax.process_index() == 0:
            replace_file(path, (json.dumps(dataclasses.asdict(fault)) + "\n" for fault in faults))
        log.line(f"{left_out} items are left out for their faults: {path} has the reasons")
    if not checked.items:
        raise ConfigError(f"benchmark.root: {options.root} has no item without a fault")
    parts = {name: hashlib.sha256(content).hexdigest() for name, content in found.content.items()}
    shown = {item.image: checked.digests[item.image] for item in checked.items}
    revision = _hash([parts, shown])
    asked = sum(len(item.asked) for item in checked.items)
    images = len({item.image for item in checked.items})
    log.line(f"{asked} questions of {images} images of {options.name} {options.root}, revision {revision[:12]}")
    return _Questions(checked.items, checked.digests, revision, left_out)


@dataclasses.dataclass(frozen=True)
class _Answered:
    """Items that are left, and those that were answered now."""

    left: int
    anew: int


def _answer(
    stage: Stage, name: str, evaluator: Evaluator, questions: _Questions, items: Sequence[Item], shots: int
) -> _Answered:
    """Asks with one number of references, and writes the results once all are answered."""
    run, log, config = stage.run, stage.log, stage.config
    options = config.benchmark
    form = AskForm(
        images_root(options),
        shots,
        options.instruction or _INSTRUCTIONS[options.name],
        options.knowledge_as,
        config.text.reference == "prompt",
        config.data.register == "rigid",
    )
    made_by = evaluator.digest(shots=shots, register=form.register)
    folder = benchmark_folder(run)
    journal = AnswerJournal(folder / f"journal_{shots}_shot_{name}.jsonl", made_by)
    records = ItemRecords(items, form, run.vocabulary, questions.facts)
    stamps = [_stamp(item, form, records, index, questions.digests) for index, item in enumerate(items)]
    questioner = Questioner(evaluator, records, shots > 0, options.name == "mmad", run.max_positions)
    log.line(f"{shots}-shot: {sum(len(item.asked) for item in items)} questions of {len(items)} items")
    found = questioner.answer([item.key for item in items], stamps, journal, log, run.mesh)
    if not found.left and jax.process_index() == 0:
        told = [(item, found.answers[item.key]) for item in items]
        make = choice_results if options.name == "mmad" else verdict_results
        results = make(told, samples=config.evaluate.bootstrap_samples, seed=options.seed)
        compared = {path: questions.digests[path] for item in items for path in item.references[:shots]}
        results.metrics["references"] = _hash(compared) if compared else ""
        about = {
            "name": options.name,
            "model": evaluator.digest(),
            "revision": questions.revision,
            "questions": sum(len(item.asked) for item in questions.items),
            "images": len({item.image for item in questions.items}),
            "left_out": questions.left_out,
            "options": dataclasses.asdict(dataclasses.replace(options, shots=(0,), stage=name)),
        }
        _write(folder, name, _model_name(run, name), shots, results, about)
        log.line(f"{shots}-shot: answers and metrics are in {folder}")
    return _Answered(found.left, found.anew)


def _write(folder: Path, stage: str, model: str, shots: int, results: ShotResults, about: dict[str, object]) -> None:
    write_answers(folder / f"answers_{shots}_shot_{stage}.jsonl", results.rows)
    if results.official is not None:
        write_official(folder / f"answers_{shots}_shot_{model}.json", results.official)
    record_results(folder / "summary.json", stage, shots, about, results.metrics)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamp(item: Item, form: AskForm, records: ItemRecords, index: int, digests: dict[str, str]) -> str:
    """Hash of an item's images and of all that is said about them."""
    images = [digests[path] for path in (item.image, *item.references[: form.shots])]
    asked = [[form.question(item, each), *each.options] for each in item.asked]
    return stamp_of([images, asked, item.category, records.facts_of(index)])


def _model_name(run: Run, stage: str) -> str:
    """Name of a model in the file names of MMAD's answers: its folder, and its stage where it was trained."""
    weights = run.config.model.weights
    if run.trained.is_imported(stage) and weights:
        name = Path(weights).expanduser().resolve().name
    else:
        name = f"{run.folder.path.resolve().name}-{stage}"
    return re.sub(r"[^\w.-]+", "-", name)
