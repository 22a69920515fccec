"""Inspections of a folder of images that tests kill, change and go on with."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from pathlib import Path
from typing import Any

from sage_jax.config.command_line import read_config
from sage_jax.stages.stages import run_stages
from tests.support.tiny_run import CONFIG, fork_main, read_jsonl

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
        process = fork_main(self.folder, *self.fields)
        deadline = time.monotonic() + 300
        while not (self.partial.exists() and self.partial.read_bytes().count(b"\n") >= 4):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        assert process.returncode is not None
        saved = self.partial.read_bytes().count(b"\n") // 2 * 2  # whole batches
        return saved, process.returncode, said


def done_before(said: str) -> int:
    found = re.search(rf"inspect: (\d+) of {MANY} images were done before the stop", said)
    return int(found[1]) if found else 0
