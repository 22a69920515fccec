"""A watcher with an inspector that needs no model, in this process or in one to kill (`python -m`)."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sage_jax.config import WatchConfig
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.data.records import Reference
from sage_jax.errors import UserError
from sage_jax.inspection.result import Inspection
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.jobs import Finding
from sage_jax.serving.service import Request
from sage_jax.watching.journal import WatchJournal
from sage_jax.watching.result_file import ResultFile
from sage_jax.watching.watcher import Model, Watcher
from sage_jax.watching.webhook import Webhook

REFERENCE = Reference(encode_png(np.full((8, 8, 3), 90, np.uint8)), "good.png")


class Brightness:
    """Calls bright images defective, in threads as the service does; an image in disorder is a fault, as there.

    Attributes:
      requests: Those that it took.
      full: Whether it takes no more.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.requests = list[Request]()
        self.full = False
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(4)

    def submit(self, request: Request) -> Future[Finding]:
        if self.full:
            raise RequestFault(429, "full", 1)
        try:
            pixels = decode_rgb(request.image, name=request.name)
        except UserError as error:
            raise RequestFault(422, str(error)) from None
        self.requests.append(request)
        return self._pool.submit(self._find, request, pixels)

    def _find(self, request: Request, pixels: np.ndarray) -> Finding:
        time.sleep(self._seconds)
        score = float(pixels.mean()) / 255.0
        found = Inspection(
            request.name,
            request.category,
            "defective" if score >= 0.5 else "good",
            score,
            reason="Yes." if score >= 0.5 else "No.",
            anomaly_map=np.full(pixels.shape[:2], score, np.float32),
            reference="good.png",
            num_references=1,
            pixels=pixels,
        )
        return Finding(found, (1,), 1, 0.0, 0.0, 1)


MODEL = Model(
    revision="model 1", threshold=lambda number: 0.5, references=lambda name: (REFERENCE,), category=lambda path: "cap"
)


def picture(seed: int, px: int = 16) -> bytes:
    """A picture of its own for each seed."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (px, px, 3), np.uint8))


class Bench:
    """A folder to watch, with what a watcher needs, and a clock that a test moves.

    Attributes:
      images: The folder.
      service: The inspector.
      said: Lines for the user.
      now: Seconds.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.images, self.output = folder / "images", folder / "watch"
        self.images.mkdir(parents=True, exist_ok=True)
        self.options = WatchConfig(folder=str(self.images), **options)
        self.service = Brightness()
        self.said = list[str]()
        self.now = 0.0
        self.store = CorrectionStore(folder / "corrections")
        self.start()

    def start(self, model: Model = MODEL) -> None:
        """A watcher, as after a restart."""
        self.journal = WatchJournal(self.output)
        self.watcher = Watcher(
            self.service,
            model,
            self.options,
            journal=self.journal,
            output=ResultFile(self.output / "inspection.jsonl", self.journal),
            store=self.store,
            most=8,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def add(self, name: str, content: bytes) -> Path:
        """Writes a file of the folder."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def look(self, seconds: float = 1.0) -> None:
        """Two looks, with time between and after: what lay still is read at the second."""
        for _ in range(2):
            self.watcher.step()
            self.now += seconds

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the results."""
        return rows_of(self.output)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The lines of a folder of results."""
    path = output / "inspection.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main(folder: Path, address: str, seconds: float) -> None:
    """Watches until it is killed, or for some seconds."""
    options = WatchConfig(folder=str(folder / "images"), poll_seconds=0.02, settle_seconds=0.05, webhook=address)
    journal = WatchJournal(folder / "watch")
    webhook = Webhook(address, journal, name="test", say=print, first_wait=0.02)
    watcher = Watcher(
        Brightness(0.002),
        MODEL,
        options,
        journal=journal,
        output=ResultFile(folder / "watch" / "inspection.jsonl", journal),
        store=CorrectionStore(folder / "corrections"),
        webhook=webhook,
        most=8,
    )
    webhook.start()
    print("watching", flush=True)
    until = time.monotonic() + seconds
    watcher.run(lambda: time.monotonic() > until)
    webhook.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
