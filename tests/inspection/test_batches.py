"""Batches of images: each file is decoded once, each reference passes the ViT once, memory holds a few batches."""

from __future__ import annotations

import dataclasses
import shutil
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sage_jax.config import DataConfig, InspectConfig
from sage_jax.config.command_line import read_config
from sage_jax.data import images as image_files
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import feature_form
from sage_jax.generation.responder import Responder
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection import page as inspection_page
from sage_jax.inspection.batches import cached_references
from sage_jax.inspection.images import InputImage, UserImages
from sage_jax.inspection.inspect import inspect
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import load_summary
from sage_jax.stages.run import Run
from tests.support.inspection_work import MANY, QUESTIONS, Work
from tests.support.photographs import drawn
from tests.support.tiny_run import CONFIG
from tests.support.tiny_sage import TINY, random_batch


def test_images_are_in_memory_a_few_batches_at_a_time(work: Work, whole: dict[str, bytes], tmp_path: Path) -> None:
    alive: weakref.WeakSet[Record] = weakref.WeakSet()
    most = 0

    class Watched(UserImages):
        def read(self, index: int) -> InputImage:
            nonlocal most
            input_image = super().read(index)
            if input_image.record is not None:
                alive.add(input_image.record)
            most = max(most, len(alive))
            return input_image

    run = Run(read_config(["--config", str(CONFIG), f"--config.run_dir={work.folder / 'run'}", *work.fields]))
    evaluator = run.evaluator("edpo", run.weights.merged("edpo", wanted_by="inspect"))
    images = Watched(run.config.inspect, run.vocabulary)
    with RunLog(tmp_path, "inspect") as log:
        result = inspect(images, evaluator, stage="edpo", output=tmp_path, log=log, mesh=run.mesh)
    assert result.done == MANY
    assert evaluator.rows(MANY) == 8  # as many as there are devices
    assert most <= 3 * 8 + 1


def test_a_folder_compared_with_one_image_runs_the_vit_on_that_image_once(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles: list[int] = []
    features = Responder.vit_features

    def counting(self: Responder, shown: Any) -> Any:
        tiles.append(len(shown))
        return features(self, shown)

    monkeypatch.setattr(Responder, "vit_features", counting)
    found = {}
    for megabytes in (1, 0):
        work.here(f"--config.inspect.reference_memory_mb={megabytes}")
        found[megabytes] = work.rows()
        shutil.rmtree(work.output)
    assert tiles == [8]  # of one tile each, as many as there are devices
    apart = []
    for one, other in zip(found[1], found[0], strict=True):
        assert one["reason"] == other["reason"] and one["verdict"] == other["verdict"]
        apart += [] if one["score"] is None else [abs(one["score"] - other["score"])]
    # Of six pictures one is the reference itself: all of its patches are equally distinct, and rounding chooses.
    chosen_otherwise = sum(each > 1e-5 for each in apart)
    assert len(apart) == 40 and chosen_otherwise <= 7 and max(apart) < 0.05


@pytest.mark.parametrize(("references", "num_tiles"), [("good.png", 3), (".", 12)])
def test_one_reference_for_all_images_is_all_that_the_vit_runs_on(
    tmp_path: Path, references: str, num_tiles: int
) -> None:
    calls: list[int] = []
    model = dataclasses.replace(TINY, max_tiles=2)  # and a thumbnail

    def features(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return np.zeros((len(tiles), *feature_form(model, np.dtype(np.float32)).shape), np.float32)

    (tmp_path / "good.png").write_bytes(drawn()[0].test_image)
    inspect = InspectConfig(references=str(tmp_path / references))
    config = SimpleNamespace(inspect=inspect, model=model, data=DataConfig())
    responder = SimpleNamespace(rows=lambda count: count, vit_features=features)
    evaluator = cast(Any, SimpleNamespace(config=config, responder=responder))
    kept = cached_references(evaluator, one_for_all=inspection._has_one_reference(config.inspect.references))
    assert kept is not None
    kept.put_into(random_batch(0, rows=1))  # of one reference of two tiles
    assert calls == [num_tiles]
    config.data = DataConfig(register="rigid")
    assert cached_references(evaluator, one_for_all=True) is None, "each image has a reference of its own then"


def test_every_file_is_decoded_once_from_reading_to_report(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded: Counter[str] = Counter()

    def counting(data: bytes, *, name: str) -> np.ndarray:
        decoded[name] += 1
        return decode_rgb(data, name=name)

    for index, path in enumerate(sorted((work.folder / "images").iterdir())):  # no two of the same content
        (tmp_path / path.name).write_bytes(path.read_bytes() + bytes([index]))
    for module in (image_files, inspection_page):
        monkeypatch.setattr(module, "decode_rgb", counting)
    image_files._remembered.cache_clear()
    work.here(f"--config.inspect.images={tmp_path}")
    shown = {Path(row["image"]).name: row["verdict"] for row in work.rows()}
    assert len(shown) == MANY
    found = {Path(name).name: times for name, times in decoded.items() if Path(name).parent == tmp_path}
    assert found == {name: 1 + (verdict == "unreadable") for name, verdict in shown.items()}
    assert sum(times for name, times in decoded.items() if name.endswith("good.png")) == 1
    shutil.rmtree(work.output)


def test_questions_asked_together_are_answered_as_if_each_came_alone(work: Work, whole: dict[str, bytes]) -> None:
    questions = f"--config.inspect.questions={QUESTIONS}"
    work.here(questions)
    together = work.rows()
    for question in QUESTIONS:
        shutil.rmtree(work.output)
        work.here(f"--config.inspect.questions=({question!r},)")
        for row, alone in zip(together, work.rows(), strict=True):
            said = {turn["question"]: turn["answer"] for turn in row["follow_ups"]}
            assert all(said[turn["question"]] == turn["answer"] for turn in alone["follow_ups"])
            assert (row["reason"], row["verdict"]) == (alone["reason"], alone["verdict"])
    counts = load_summary(work.folder / "run" / "summary.json")["stages"]["inspect"]
    assert counts["images"] == MANY and 0 < counts["answer_tokens"] <= 2 * 8 * (MANY - 1)
    shutil.rmtree(work.output)
