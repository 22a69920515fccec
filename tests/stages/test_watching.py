"""The command `watch` as a user starts it: a real model, a kill, a restart; and a folder beside requests in `serve`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

import sage_jax
from sage_jax.cli import main
from sage_jax.corrections.store import store_of
from tests.support.forked import Forked, run_forked
from tests.support.served import png
from tests.support.tiny_export import make_run_folder
from tests.support.tiny_run import PROGRAM
from tests.support.watched import rows_of


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("watching") / "line3")


class Program:
    """A command that runs until it is stopped.

    Attributes:
      said: What it has said on stderr.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = os.environ | PROGRAM | {"SAGE_KEY": "secret-key"}
        self._log = folder / f"{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._process = Forked(
                ["sage_jax", *arguments], cwd=folder, environment=environment, stderr=log, stdout=log
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 500
        while not condition():
            assert self._process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.02)

    def ready(self) -> Program:
        self.until(lambda: ": ready: " in self.said)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        return self._process.wait(timeout=200)


@contextlib.contextmanager
def program(folder: Path, *arguments: str) -> Iterator[Program]:
    """The command, ended with the block whatever comes."""
    found = Program(folder, *arguments)
    try:
        yield found
    finally:
        if found._process.poll() is None:
            found._process.kill()
            found._process.wait()


OPTIONS = ("--serve.rows", "2", "--watch.poll-seconds", "0.1", "--watch.settle-seconds", "0.1")


def test_a_killed_watcher_goes_on_and_its_rows_are_those_of_inspect(run_dir: Path, tmp_path: Path) -> None:
    images, good = tmp_path / "images", tmp_path / "good.png"
    images.mkdir()
    good.write_bytes(png(100))
    command = ("watch", "images", "--model", str(run_dir), "--references", str(good), *OPTIONS)
    for number in range(5):
        (images / f"{number}.png").write_bytes(png(number))
    with program(tmp_path, *command) as first:
        first.ready().until(lambda: len(rows_of(run_dir / "watch")) >= 1)
        second = run_forked(["sage_jax", *command], environment=os.environ | PROGRAM, cwd=tmp_path)
        assert (
            second.returncode == 2
            and "watch.output" in second.stderr
            and "another process works in it" in second.stderr
        )
        first.stop(signal.SIGKILL)
    for number in range(5, 8):
        (images / f"{number}.png").write_bytes(png(number))
    (images / "same.png").write_bytes(png(0))
    with program(tmp_path, *command) as again:
        again.ready().until(lambda: len(rows_of(run_dir / "watch")) == 9)
        assert again.stop() == 0 and "stopped" in again.said
    rows = {Path(row["image"]).name: row for row in rows_of(run_dir / "watch")}
    assert sorted(rows) == [*(f"{number}.png" for number in range(8)), "same.png"]
    assert Path(rows["same.png"]["duplicate_of"]).name == "0.png"
    inspector = sage_jax.load(run_dir)
    for number in range(8):
        row, found = rows[f"{number}.png"], inspector.inspect(images / f"{number}.png", references=good)
        assert (row["verdict"], row["reason"]) == (found.verdict, found.reason)
        np.testing.assert_allclose(np.asarray(row["score"]), np.asarray(found.score), atol=1e-5)
    store = store_of(run_dir)
    names = [entry.name for entry in store.pending(limit=-1)]
    assert sorted(names) == [f"{number}.png" for number in range(8)]


def test_serve_watches_beside_its_requests_and_shows_both_for_review(run_dir: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    before = store_of(run_dir).counts().inspections
    command = (
        "serve",
        "--model",
        str(run_dir),
        "--port",
        "0",
        "--watch.folder",
        "images",
        "--watch.output",
        "out",
        *OPTIONS,
    )
    with program(tmp_path, *command, "--review.keep-requests", "--serve.api-key-env", "SAGE_KEY") as service:
        service.ready()
        (address,) = re.findall(r"review: (http\S+)/review", service.said)
        (images / "a.png").write_bytes(png(31))
        service.until(lambda: len(rows_of(tmp_path / "out")) == 1)
        key = {"Authorization": "Bearer secret-key"}
        with httpx2.Client(base_url=address, headers=key, timeout=200) as client:
            given = {"image": ("b.png", png(32), "image/png")}
            assert client.post("/v1/inspect", files=given).status_code == 200
            queue = client.get("/review/api/queue?order=newest").json()
            assert [each["name"] for each in queue["inspections"][:2]] == ["b.png", "a.png"]
            assert queue["counts"]["inspections"] == before + 2
            number = queue["inspections"][0]["id"]
            body = {"who": "Ana", "right": False, "verdict": "defective", "kind": "scratch"}
            assert client.post(f"/review/api/inspections/{number}/correct", json=body).status_code == 200
            versions = client.get("/review/api/versions").json()["versions"]
            assert [(each["number"], each["answering"]) for each in versions] == [(0, True)]
        assert httpx2.get(f"{address}/review/api/queue").status_code == 401
        assert httpx2.get(f"{address}/review").status_code == 200
        assert service.stop() == 0
    corrected = store_of(run_dir).corrected()
    assert [entry.name for entry in corrected] == ["b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("watch", "nowhere"), "watch.folder = 'nowhere': no such folder"),
        (("watch", ".", "--webhook", "ftp://a"), "webhook = 'ftp://a'"),
        (("watch", ".", "--watch.webhook-key-env", "KEY"), "there is no webhook"),
        (("serve", "--watch.folder", "nowhere"), "watch.folder = 'nowhere': no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_loaded(
    run_dir: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--model", str(run_dir)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and "compiled for" not in said


def test_a_folder_that_export_wrote_is_served_too(run_dir: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(png(31))
    (tmp_path / "good.png").write_bytes(png(100))
    exported = sage_jax.export(run_dir, tmp_path / "line3", dtype="float32")
    arguments = ("--references", "good.png", "--port", "0", "--watch.folder", "images", "--watch.output", "out")
    with program(tmp_path, "serve", "--model", str(exported), *arguments, *OPTIONS) as service:
        service.ready().until(lambda: len(rows_of(tmp_path / "out")) == 1)
        (address,) = re.findall(r"review: (http\S+)/review", service.said)
        queue = httpx2.get(f"{address}/review/api/queue", timeout=200).json()
        assert [each["name"] for each in queue["inspections"]] == ["a.png"]
        assert "no run here" in httpx2.get(f"{address}/review/api/versions", timeout=200).json()["note"]
        assert service.stop() == 0
    (row,) = rows_of(tmp_path / "out")
    found = sage_jax.load(run_dir).inspect(images / "a.png", references=tmp_path / "good.png")
    np.testing.assert_allclose(np.asarray(row["score"]), np.asarray(found.score), atol=1e-4)
