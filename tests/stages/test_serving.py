"""`sage-jax serve` as a user starts it: it says where it listens, stops with status 0, and faults are one line."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from sage_jax.stages.run import Run
from sage_jax.stages.serving import serve
from tests.support.forked import Forked
from tests.support.served import base64_of, png
from tests.support.tiny_export import TRAINED_HERE, make_run_folder
from tests.support.tiny_run import PROGRAM


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a trained stage."""
    return make_run_folder(tmp_path_factory.mktemp("served") / "line3")


def started(folder: Path, *options: str, **variables: str) -> Forked:
    command = ["sage_jax", "serve", "--model", str(folder), "--serve.rows", "1", *options]
    return Forked(command, environment=os.environ | PROGRAM | variables, cwd=folder.parent)


def ready(process: Forked) -> Iterator[str]:
    """The lines of a service up to the one that says where it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if line.startswith("serve: ready: "):
            return
    raise AssertionError("it ended before it was ready")


def written(run_folder: Path) -> dict[Path, int]:
    """When each file of the run was written, corrections left out, which a service keeps beside it."""
    inside = (path for path in run_folder.rglob("*") if "corrections" not in path.relative_to(run_folder).parts)
    return {path: path.stat().st_mtime_ns for path in inside if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_what_was_sent_before_a_signal_and_ends_with_status_0(run_folder: Path, number: int) -> None:
    before = written(run_folder)
    process = started(run_folder, "--port", "0")
    try:
        address = [*ready(process)][-1].split()[2].removesuffix("/docs;")
        answers: list[httpx2.Response] = []

        def ask() -> None:
            answers.append(httpx2.post(f"{address}/v1/inspect", json={"image": base64_of(png(0))}, timeout=120))

        asked = [threading.Thread(target=ask) for _ in range(4)]
        for each in asked:
            each.start()
        while not answers:
            asked[0].join(0.05)
        process.send_signal(number)
        for each in asked:
            each.join()
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert [each.status_code for each in answers if each.status_code != 503] and "stopping after" in said
    assert "stopped: all that waited is answered" in said and "Traceback" not in said
    assert written(run_folder) == before, "the run folder was written"


def test_faults_are_one_line_and_status_2(run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = (
            (["--port", port], f"serve.port = {port}: cannot listen there"),
            (["--references", "nowhere"], "inspect.references = 'nowhere': no such file or folder"),
            (["--serve.api-key-env", "SAGE_TEST_NO_SUCH_KEY"], "environment variable that is not set"),
            (["--stage", "edpo"], "needs stage 'edpo'"),
        )
        processes = [(started(run_folder, *options), said) for options, said in cases]
        for process, said in processes:
            _, errors = process.communicate(timeout=300)
            last = errors.splitlines()[-1]
            assert process.returncode == 2 and last.startswith("error: ") and said in last, errors


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sage_jax.serving.app", None)
    with pytest.raises(ValueError, match=r"pip install 'sage-jax\[serve\]'"):
        serve(Run(dataclasses.replace(TRAINED_HERE, stages="serve")))
