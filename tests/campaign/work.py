"""A place for a run that lacks something, how it ended, and what it left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.tiny_run import compiled_in, fork_main, start_main

STAGES: Final = ("prepare", "base", "base_dpo", "evaluate", "inspect")
TRAINED: Final = ("base", "base_dpo")
FIELDS: Final = (
    f"--config.stages={','.join(STAGES)}",
    "--config.evaluate.stages=('base_dpo',)",
    "--config.evaluate.num_records=4",
    "--config.evaluate.batch_size=2",
    "--config.base.checkpoint_every=4",
    "--config.base_dpo.checkpoint_every=1",
    "--config.data.vit_features=disk",
    "--config.inspect.max_images=2",
)
LONGEST: Final = 1800
"""Seconds that a run may take."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
      status: Its exit status; negative = a signal.
      said: What it wrote to its standard error.
    """

    status: int
    said: str

    @property
    def outcome(self) -> str:
        """`done`, `told` in one message, `died` without any, or what should not be."""
        messages = sum(line.startswith("error: ") for line in self.said.splitlines())
        if "Traceback" in self.said:
            return "traceback"
        if self.status < 0:
            return "died"
        if self.status == 0:
            return "done" if not messages else "untold"
        return "told" if self.status == 2 and messages == 1 else "untold"

    @property
    def stage(self) -> str:
        """The last stage that it spoke of; "start" = none."""
        spoken = re.findall(rf"^({'|'.join(STAGES)})\b", self.said, re.MULTILINE)
        return spoken[-1] if spoken else "start"


@dataclasses.dataclass(frozen=True)
class Work:
    """A place to run in.

    Attributes:
      folder: Holds the run, its data and what is compiled.
      rng: Draws how much is lacking.
      fields: The run.
    """

    folder: Path
    rng: random.Random
    fields: Sequence[str] = FIELDS

    def run(
        self,
        *fields: str,
        meanwhile: Callable[[int], None] | None = None,
        after: tuple[float, float] = (2.0, 25.0),
        **options: Any,
    ) -> Ended:
        """Runs to the end: with options from an interpreter of its own, else as a fork.

        Args:
          meanwhile: Called once with the number of the process.
          after: Least and most seconds of the run before that, between which they are drawn.
        """
        environment = compiled_in(self.folder) | options.get("environment", {})
        begin = start_main if options else fork_main
        process = begin(self.folder, *self.fields, *fields, **options | {"environment": environment})
        if meanwhile:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.rng.uniform(*after))
            meanwhile(process.pid)
        try:
            said = process.communicate(timeout=LONGEST)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return Ended(1, f"no end after {LONGEST} s: {process.communicate()[1]}")
        return Ended(process.wait(), said or "")


def left(run: Path) -> dict[str, object]:
    """What a run leaves that must not depend on where it is and when it was stopped."""
    files = [*sorted((run / "predictions").glob("*.jsonl")), run / "inspect" / "inspection.jsonl"]
    found: dict[str, object] = {path.name: path.read_bytes().replace(str(run).encode(), b"RUN") for path in files}
    for stage in TRAINED:
        found[stage] = json.loads((run / "stages" / stage / "DONE.json").read_text())["weights"]
    found["metrics"] = json.loads((run / "summary.json").read_text())["metrics"][TRAINED[-1]]["one_shot"]["mle"]
    return found


@contextlib.contextmanager
def place(folder: Path, compiled: Path | None = None) -> Iterator[Path]:
    """A new folder with what is compiled already; it is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if compiled:
        shutil.copytree(compiled, folder / "compiled")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
