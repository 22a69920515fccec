"""The log of a run: metrics to TensorBoard and JSONL, progress with rate and time left, plain lines."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from sage_jax.config import TrainConfig
from sage_jax.errors import UserError
from sage_jax.process.files import replace_file

if TYPE_CHECKING:
    from sage_jax.journal.tensorboard import EventFile

MAX_SKIPPED_IN_ROW: Final = 10
_SECONDS_BETWEEN_LINES: Final = 10.0
_RATE_WINDOW: Final = 50  # updates that the rate is taken over: smooth, yet it forgets the compilation


class TrainingDiverged(UserError):
    """Ten steps in a row had no finite loss and gradient; the message names the records of their batches."""


class RunLog:
    """What a stage tells its user; only process 0 writes.

    `metrics.jsonl` in the run directory gets a row `{"stage", "step", ...}` per call of `metrics`, TensorBoard the same
    under `tensorboard/<stage>`, `log.txt` and the terminal the plain lines.

    Args:
      run_dir: Folder of the run.
      stage: Name of the stage, in every row and line.
    """

    def __init__(self, run_dir: Path | str, stage: str) -> None:
        self.run_dir = Path(run_dir)
        self.stage = stage
        self._writes = jax.process_index() == 0
        self._console = Console(stderr=True, highlight=False)
        self._events: EventFile | None = None
        self._first_step = 0
        if self._writes:
            self.run_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def metrics_path(self) -> Path:
        return self.run_dir / "metrics.jsonl"

    def resume_from(self, step: int) -> None:
        """Drops this stage's rows beyond `step`, which will be computed again, and a row that a kill cut short."""
        if not self._writes:
            return
        self._first_step = step + 1
        if not self.metrics_path.exists():
            return
        lines = self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if self._keeps(line, step)]
        if len(kept) < len(lines):
            replace_file(self.metrics_path, "".join(line + "\n" for line in kept))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a row of scalars; a value that is not finite stands as null."""
        if not self._writes:
            return
        if self._events is None:
            from sage_jax.journal.tensorboard import EventFile

            self._events = EventFile(self.run_dir / "tensorboard" / self.stage, self._first_step)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.metrics_path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **finite}) + "\n")
        self._events.scalars(step, {name: value for name, value in finite.items() if value is not None})

    def line(self, text: str) -> None:
        """A plain line, such as what was resumed or skipped, to the terminal and to `log.txt`."""
        if not self._writes:
            return
        self._console.print(f"{self.stage}: {text}", markup=False, soft_wrap=True)
        with (self.run_dir / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.stage}: {text}\n")

    @contextmanager
    def progress(self, total: int, *, done: int = 0, unit: str = "step") -> Iterator[Advance]:
        """Progress over `total` units: a bar on a terminal, elsewhere a line at most every ten seconds."""
        clock = _Clock(total, done)
        if not self._writes or not self._console.is_terminal:
            yield Advance(self, clock, unit)
            return
        rate_and_values = TextColumn("{task.fields[state]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate_and_values)
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(self.stage, total=total, completed=done, state="")
            yield Advance(self, clock, unit, bar=bar, task=task)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _keeps(self, line: str, step: int) -> bool:
        try:
            row = json.loads(line)
            return row["stage"] != self.stage or row["step"] <= step
        except (ValueError, KeyError, TypeError, RecursionError):
            return False  # cut short, or damaged: it is of a plot alone

    def _progress_line(self, text: str) -> None:
        if self._writes:
            self._console.print(f"{self.stage} {text}", markup=False, soft_wrap=True)


@dataclasses.dataclass
class Advance:
    """Moves a progress display on; made by `RunLog.progress`."""

    _log: RunLog
    _clock: _Clock
    _unit: str
    bar: Progress | None = None
    task: TaskID = TaskID(0)
    _last_line: float = -math.inf

    def __call__(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Shows that `done` units are finished, and the given values beside rate and time left."""
        now = time.monotonic()
        self._clock.tick(done, now)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        state = "  ".join(filter(None, (self._clock.text(self._unit), shown)))
        if self.bar is not None:
            self.bar.update(self.task, completed=done, state=state)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES or done == self._clock.total:
            self._last_line = now
            self._log._progress_line(f"{done}/{self._clock.total}  {state}")


class _Clock:
    """Rate and time left, over the last updates."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self._ticks: deque[tuple[int, float]] = deque([(done, time.monotonic())], maxlen=_RATE_WINDOW)

    def tick(self, done: int, now: float) -> None:
        self._ticks.append((done, now))

    def rate(self) -> float:
        """Units per second; 0 before two updates."""
        (first, start), (last, end) = self._ticks[0], self._ticks[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def text(self, unit: str) -> str:
        rate = self.rate()
        if rate <= 0:
            return ""
        seconds = round((self.total - self._ticks[-1][0]) / rate)
        speed = f"{rate:.3g} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{unit}"
        hours, minutes = divmod(seconds // 60, 60)
        left = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
        return f"{speed}  {left} left"


@dataclasses.dataclass(frozen=True)
class StepInput:
    """What a step was given.

    Attributes:
      record_index: Rows of the data set.
      num_tokens: Real tokens of this process's trees.
      num_slots: Tokens that they are padded to, rows x length.
      waited: Seconds that the devices had nothing to do, for want of this batch.
    """

    record_index: np.ndarray
    num_tokens: int = 0
    num_slots: int = 0
    waited: float = 0.0


class StepLog:
    """Follows training steps one behind, so that the host waits for step n - 1 while the devices compute step n.

    Args:
      log: Where rows and lines go.
      train: `log_every` and `steps`.
      learning_rate: Schedule, by updates done.
      record_ids: Names of data set rows.
      advance: Progress display.
    """

    def __init__(
        self,
        log: RunLog,
        train: TrainConfig,
        learning_rate: Callable[[int], Any],
        record_ids: Callable[[np.ndarray], list[str]],
        advance: Advance,
    ) -> None:
        self._log, self._train, self._advance = log, train, advance
        self._learning_rate, self._record_ids = learning_rate, record_ids
        self._pending: tuple[int, Mapping[str, Any], StepInput] | None = None
        self._window: list[dict[str, tuple[float, float]]] = []
        self._window_start = time.monotonic()
        self._window_waited = 0.0
        self._total = _Total()
        self._num_skipped = 0
        self._num_in_row = 0
        self._ids_in_row: deque[tuple[int, list[str]]] = deque(maxlen=MAX_SKIPPED_IN_ROW)

    def resume(self, step: int, num_skipped: int, num_skipped_in_row: int) -> None:
        """Goes on after `step`: rows beyond it are dropped, the counters continue."""
        self._log.resume_from(step)
        self._num_skipped, self._num_in_row = num_skipped, num_skipped_in_row

    def follow(self, step: int, metrics: Mapping[str, Any], given: StepInput) -> None:
        """Takes a step that has been dispatched, and reads the one before it."""
        self._window_waited += given.waited
        self._total.add(given)
        self.catch_up()
        self._pending = (step, metrics, given)

    def is_idle(self) -> bool:
        """Whether the devices have nothing to do: no step is out, or the last one has ended."""
        return self._pending is None or all(leaf.is_ready() for leaf in jax.tree.leaves(self._pending[1]))

    def shares(self) -> dict[str, float]:
        """Of all steps: `input_wait`, share of the wall time that the devices waited for a batch, compiling the first
        step left out; `padding`, share of the trees' tokens that are none. Empty after less than two steps.
        """
        return self._total.shares()

    def catch_up(self) -> None:
        """Reads the step that is still out.

        Raises:
          TrainingDiverged: It was the tenth in a row without finite loss and gradient.
        """
        if self._pending is None:
            return
        step, on_device, given = self._pending
        self._pending = None
        metrics = {name: (float(total), float(count)) for name, (total, count) in jax.device_get(on_device).items()}
        if given.num_slots:
            metrics["padding"] = (float(given.num_slots - given.num_tokens), float(given.num_slots))
        self._total.step_ended()
        self._window.append(metrics)
        if metrics["skipped"][0]:
            self._skipped(step, metrics, given.record_index)
        else:
            self._num_in_row = 0
            self._ids_in_row.clear()
        if metrics["empty"][0]:
            self._num_skipped += 1
            self._log.line(f"step {step}: its batch has nothing to learn, such as answers of equal scores: no update")
        self._advance(step, {name: _mean([metrics], name) for name in ("loss",)})
        if step % self._train.log_every == 0 or step == self._train.steps:
            self._write(step)

    def evaluation(self, step: int, values: Mapping[str, float]) -> float:
        """Logs an evaluation under `eval/` and gives its score."""
        self._log.metrics(step, {f"eval/{name}": value for name, value in values.items()})
        self._log.line(f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
        return values["score"]

    def _skipped(self, step: int, metrics: Mapping[str, tuple[float, float]], record_index: np.ndarray) -> None:
        if jax.process_count() > 1:
            # every process sees the same metrics, so all of them come here
            record_index = np.asarray(multihost_utils.process_allgather(record_index)).reshape(-1)
        names = self._record_ids(record_index[record_index >= 0])
        self._num_skipped += 1
        self._num_in_row += 1
        self._ids_in_row.append((step, names))
        loss, norm = metrics["loss"][0], metrics["grad_norm"][0]
        self._log.line(f"step {step} skipped: loss {loss}, gradient norm {norm}; records {', '.join(names)}")
        if self._num_in_row >= MAX_SKIPPED_IN_ROW:
            batches = "\n  ".join(f"step {step}: {', '.join(names)}" for step, names in self._ids_in_row)
            raise TrainingDiverged(
                f"{self._log.stage}: {self._num_in_row} steps in a row without a finite loss and gradient; look at "
                f"these records, or lower peak_learning_rate:\n  {batches}"
            )

    def _write(self, step: int) -> None:
        finite = [metrics for metrics in self._window if not metrics["skipped"][0]]
        row = {name: _mean(finite, name) for name in self._window[-1] if name not in ("skipped", "empty")}
        now = time.monotonic()
        row |= {
            "skipped": float(len(self._window) - len(finite)),
            "learning_rate": float(self._learning_rate(max(step - self._num_skipped - 1, 0))),
            "seconds_per_step": (now - self._window_start) / len(self._window),
            "input_wait": min(self._window_waited / max(now - self._window_start, 1e-9), 1.0),
        }
        self._log.metrics(step, row)
        self._window, self._window_start, self._window_waited = [], now, 0.0


class _Total:
    """Waits and padding since the first step ended."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._end = 0.0
        self._waited = 0.0
        self._num_tokens, self._num_slots = 0, 0

    def step_ended(self) -> None:
        """Takes the time: of the first step as the start, of each after it as the end so far."""
        now = time.monotonic()
        self._start, self._end = now if self._start is None else self._start, now

    def add(self, given: StepInput) -> None:
        self._num_tokens += given.num_tokens
        self._num_slots += given.num_slots
        if self._start is not None:
            self._waited += given.waited

    def shares(self) -> dict[str, float]:
        if self._start is None or self._end <= self._start or not self._num_slots:
            return {}
        return {
            "input_wait": min(self._waited / (self._end - self._start), 1.0),
            "padding": 1.0 - self._num_tokens / self._num_slots,
        }


def _mean(steps: Sequence[Mapping[str, tuple[float, float]]], name: str) -> float:
    """Weighted mean of a metric over steps; NaN where nothing was counted."""
    total, count = (math.fsum(step[name][part] for step in steps) for part in (0, 1))
    return total / count if count else math.nan
