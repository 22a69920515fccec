"""An inspection that is killed, stopped or fails goes on with the rows that it has, to the same bytes."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import ConfigError
from sage_jax.inspection import inspect as inspection
from sage_jax.inspection import page as inspection_page
from sage_jax.inspection import result
from sage_jax.journal.summary import load_summary
from tests.support.inspection_work import MANY, Work, done_before
from tests.support.tiny_run import run_main


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


def test_what_was_answered_is_written_down_when_the_next_batch_fails(
    work: Work, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answer, batches = inspection.answer_batch, 0

    def failing(*given: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise RuntimeError("the device is gone")
        return answer(*given)

    monkeypatch.setattr(inspection, "answer_batch", failing)
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
    replace, written = result.replace_file, 0

    def filling(path: Path, content: Any) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, content)

    monkeypatch.setattr(result, "replace_file", filling)
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
    assert len(found[0][0]) == MANY + 1  # an overlay for each readable image, and the rows as JSONL and CSV


def test_a_folder_that_cannot_be_written_is_told_before_any_work(work: Work, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"inspect\.output: .*file cannot be written"):
        work.here(f"--config.inspect.output={tmp_path / 'file'}")
