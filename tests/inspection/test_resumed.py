"""A large inspection: stopped, killed and gone on with, in a memory that does not grow, each file read once."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shlex
import shutil
import signal
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sage_jax.config import ConfigError, InspectConfig
from sage_jax.config.command_line import read_config
from sage_jax.data import images as image_files
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import feature_form
from sage_jax.generation.responder import Responder
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection import page as inspection_page
from sage_jax.inspection.images import Subject, UserImages
from sage_jax.inspection.inspect import inspect
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import load_summary
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.photographs import drawn
from tests.support.tiny_run import CONFIG, TinyRun, read_jsonl, run_main, start_main
from tests.support.tiny_sage import TINY, random_batch

QUESTIONS = ("Where is it?", "How bad is it?")
BATCH = "--config.evaluate.batch_size=2"
MANY = 41


@dataclasses.dataclass(frozen=True)
class Work:
    """A run folder and a user's folder of 41 images, one of them broken, with a reference."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "run" / "inspect"

    @property
    def partial(self) -> Path:
        return self.output / "inspection.jsonl.partial"

    @property
    def fields(self) -> tuple[str, ...]:
        images, reference = self.folder / "images", self.folder / "good.png"
        return ("--config.stages=inspect", BATCH, f"--config.inspect.images={images}", *self.with_reference(reference))

    def with_reference(self, path: Path) -> tuple[str, ...]:
        return (f"--config.inspect.references={path}", "--config.inspect.map_threshold=0.0")

    def files(self) -> dict[str, bytes]:
        """What inspection left, but for the page, which has its date."""
        paths = [path for path in self.output.rglob("*") if path.is_file() and path.name != "report.html"]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}

    def rows(self) -> list[dict[str, Any]]:
        return read_jsonl(self.output / "inspection.jsonl")

    def here(self, *overrides: str) -> None:
        """Inspects in this process, which has other devices but the same model."""
        fields = (f"--config.run_dir={self.folder / 'run'}", *self.fields, *overrides)
        run_stages(read_config(["--config", str(CONFIG), *fields]))

    def stop(self, number: signal.Signals) -> tuple[int, int, str]:
        """Starts the program and signals it after a few batches; rows that were saved, exit status, what it said."""
        process = start_main(self.folder, *self.fields)
        deadline = time.monotonic() + 300
        while not (self.partial.exists() and self.partial.read_bytes().count(b"\n") >= 4):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        saved = self.partial.read_bytes().count(b"\n") // 2 * 2  # whole batches
        return saved, process.returncode, said


@pytest.fixture(scope="module")
def work(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_run.run_dir, folder / "run", ignore=shutil.ignore_patterns("inspect"))
    shutil.copytree(tiny_run.folder / "compiled", folder / "compiled")
    images = drawn()
    (folder / "images").mkdir()
    for index in range(MANY):
        content = images[index % len(images)].test_image
        (folder / "images" / f"{index:02}.png").write_bytes(content[:90] if index == 3 else content)
    (folder / "good.png").write_bytes(next(image.test_image for image in images if not image.defects))
    return Work(folder)


@pytest.fixture(scope="module")
def whole(work: Work) -> dict[str, bytes]:
    """What a run leaves that nobody stopped."""
    run_main(work.folder, *work.fields)
    files = work.files()
    shutil.rmtree(work.output)
    return files


@pytest.fixture(scope="module")
def killed(work: Work, whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """How many rows a run had saved when it was killed, and a copy of what it left."""
    saved, status, _ = work.stop(signal.SIGKILL)
    assert status == -signal.SIGKILL and 4 <= saved < MANY
    assert not (work.output / "inspection.jsonl").exists()
    copy = tmp_path_factory.mktemp("killed") / "inspect"
    shutil.copytree(work.output, copy)
    return saved, copy


@pytest.fixture
def left(work: Work, killed: tuple[int, Path]) -> Iterator[int]:
    """The results as the killed run left them; the rows that it had saved."""
    saved, copy = killed
    shutil.rmtree(work.output, ignore_errors=True)
    shutil.copytree(copy, work.output)
    yield saved
    shutil.rmtree(work.output, ignore_errors=True)


def done_before(said: str) -> int:
    found = re.search(rf"inspect: (\d+) of {MANY} images were done before the stop", said)
    return int(found[1]) if found else 0


def test_a_killed_inspection_goes_on_to_the_same_bytes(work: Work, whole: dict[str, bytes], left: int) -> None:
    resumed = run_main(work.folder, *work.fields)
    assert done_before(resumed.stderr) == left
    assert work.files() == whole
    assert [Path(row["image"]).name for row in work.rows()] == [f"{index:02}.png" for index in range(MANY)]


def test_sigterm_stops_after_a_batch_and_the_printed_command_goes_on(work: Work, whole: dict[str, bytes]) -> None:
    saved, status, said = work.stop(signal.SIGTERM)
    assert status == 0, said
    assert "SIGTERM: stopping after this batch; again to abort" in said
    assert f"stage inspect stopped after {saved} of {MANY} images; their rows are saved" in said
    (command,) = (line.removeprefix("To go on: ") for line in said.splitlines() if line.startswith("To go on: "))
    words = shlex.split(command)
    resumed = run_main(work.folder, *words[words.index("--config.stages=inspect") :])
    assert done_before(resumed.stderr) == saved
    assert work.files() == whole
    shutil.rmtree(work.output)


def test_finished_images_are_not_inspected_again(work: Work, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (work.output / "overlays").iterdir()}
    seconds = load_summary(work.folder / "run" / "summary.json")["stages"]["inspect"]["seconds"]
    work.here()
    assert done_before(capfd.readouterr().err) == left
    after = {path: path.stat().st_mtime_ns for path in (work.output / "overlays").iterdir()}
    assert len(after) == MANY - 1
    # A batch that was being written when the kill came is the one that is drawn twice.
    assert sum(after[path] == time for path, time in before.items()) >= left - 1
    assert load_summary(work.folder / "run" / "summary.json")["stages"]["inspect"]["seconds"] > seconds


def test_a_changed_image_is_inspected_again(work: Work, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    path = work.folder / "images" / "00.png"
    content, times = path.read_bytes(), path.stat()
    try:
        path.write_bytes(b"no longer an image")
        work.here()
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert done_before(capfd.readouterr().err) == left - 1
    assert [row["verdict"] == "unreadable" for row in work.rows()] == [index in (0, 3) for index in range(MANY)]


def test_a_changed_reference_is_compared_again(work: Work, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    work.here("--config.inspect.references=")
    assert done_before(capfd.readouterr().err) == 0
    assert {row["overlay"] for row in work.rows()} == {None}


def test_a_lost_overlay_is_drawn_again(work: Work, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    (path,) = (work.output / "overlays").glob("01_*.png")
    path.unlink()
    work.here()
    assert done_before(capfd.readouterr().err) == left - 1
    assert path.is_file()


def test_a_torn_line_costs_its_batch_alone(work: Work, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    os.truncate(work.partial, work.partial.stat().st_size - 20)
    work.here()
    assert done_before(capfd.readouterr().err) == left - 2
    assert len(work.rows()) == MANY


@pytest.mark.parametrize(
    "change",
    [
        "--config.inspect.threshold=0.0",
        "--config.inspect.map_threshold=0.25",
        "--config.inspect.category=nut",
        "--config.inspect.questions=('Where is it?',)",
        "--config.evaluate.decoding.method=sample",
        "--config.inspect.stage=sfe",
        "--config.evaluate.max_new_tokens=7",
    ],
)
def test_rows_of_other_options_or_another_model_are_made_anew(
    work: Work, left: int, change: str, capfd: pytest.CaptureFixture[str]
) -> None:
    work.here(change)
    assert done_before(capfd.readouterr().err) == 0
    rows = [row for row in work.rows() if row["verdict"] != "unreadable"]
    assert len(rows) == MANY - 1
    if "threshold=0.0" in change and "map" not in change:
        assert {row["verdict"] for row in rows} == {"defective"}


def test_options_that_decide_no_row_keep_the_rows_and_a_large_folder_has_a_page_of_some(
    work: Work, left: int, capfd: pytest.CaptureFixture[str]
) -> None:
    work.here("--config.inspect.report_images=4")
    assert done_before(capfd.readouterr().err) == left
    page = (work.output / "report.html").read_text(encoding="utf-8")
    assert f"shows 4 of {MANY} images" in page
    assert page.count('<tr role="row" class=') == 4 and page.count("<img ") == 3 * 3
    shown = re.findall(r'data-name="([^"]*)"', page)
    scores = {Path(row["image"]).name: row["score"] for row in work.rows()}
    assert shown[0] == "03.png"
    ranked = sorted((score for score in scores.values() if score is not None), reverse=True)
    assert [scores[name] for name in shown[1:]] == ranked[:3]
    assert len(scores) == MANY


def test_images_are_in_memory_a_few_batches_at_a_time(work: Work, whole: dict[str, bytes], tmp_path: Path) -> None:
    alive: weakref.WeakSet[Record] = weakref.WeakSet()
    most = 0

    class Watched(UserImages):
        def read(self, index: int) -> Subject:
            nonlocal most
            subject = super().read(index)
            if subject.record is not None:
                alive.add(subject.record)
            most = max(most, len(alive))
            return subject

    run = Run(read_config(["--config", str(CONFIG), f"--config.run_dir={work.folder / 'run'}", *work.fields]))
    examination = run.examination("edpo", run.weights.merged("edpo", wanted_by="inspect"))
    images = Watched(run.config.inspect, run.vocabulary)
    with RunLog(tmp_path, "inspect") as log:
        result = inspect(images, examination, stage="edpo", output=tmp_path, log=log, mesh=run.mesh)
    assert result.done == MANY
    assert examination.rows(MANY) == 8  # as many as there are devices
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
    for one, other in zip(found[1], found[0], strict=True):
        assert one["reason"] == other["reason"] and one["verdict"] == other["verdict"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


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
    config = SimpleNamespace(inspect=InspectConfig(references=str(tmp_path / references)), model=model)
    responder = SimpleNamespace(rows=lambda count: count, vit_features=features)
    kept = inspection._kept_references(cast(Any, SimpleNamespace(config=config, responder=responder)))
    assert kept is not None
    kept.put_into(random_batch(0, rows=1))  # of one reference of two tiles
    assert calls == [num_tiles]


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


def test_what_was_answered_is_written_down_when_the_next_batch_fails(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tell, batches = inspection._tell, 0

    def failing(*given: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise RuntimeError("the device is gone")
        return tell(*given)

    monkeypatch.setattr(inspection, "_tell", failing)
    with pytest.raises(RuntimeError, match="the device is gone"):
        work.here()
    assert work.partial.read_bytes().count(b"\n") == 2 * 8  # a row for each device in a batch
    monkeypatch.undo()
    work.here()
    assert done_before(capfd.readouterr().err) == 2 * 8
    assert [Path(row["image"]).name for row in work.rows()] == [f"{index:02}.png" for index in range(MANY)]
    shutil.rmtree(work.output)


def test_a_disk_that_fills_up_while_overlays_are_drawn_is_told_and_costs_no_row(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    replace, written = inspection.replace_file, 0

    def filling(path: Path, content: Any) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, content)

    monkeypatch.setattr(inspection, "replace_file", filling)
    with pytest.raises(ConfigError, match="inspect.output: .* cannot be written: No space left on device"):
        work.here()
    monkeypatch.undo()
    work.here()
    assert done_before(capfd.readouterr().err) == 8  # one batch of a row for each device was whole
    shutil.rmtree(work.output)


def test_rows_and_overlays_do_not_depend_on_how_many_are_drawn_at_once(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for at_once in (1, 4):
        monkeypatch.setattr(inspection, "_MOST_DRAWING", at_once)
        monkeypatch.setattr(inspection_page, "_MOST_AT_ONCE", at_once)
        work.here()
        page = (work.output / "report.html").read_text(encoding="utf-8")
        found.append((work.files(), re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", page)))
        shutil.rmtree(work.output)
    assert found[0] == found[1]
    assert len(found[0][0]) == MANY  # an overlay for each readable image, and the rows


def test_a_folder_that_cannot_be_written_is_told_before_any_work(work: Work, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"inspect\.output: .*file cannot be written"):
        work.here(f"--config.inspect.output={tmp_path / 'file'}")
