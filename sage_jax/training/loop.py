"""One training stage: the loop over its steps that resumes, logs, saves and stops."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, TrainConfig, config_changes
from sage_jax.journal.run_log import RunLog, StepInput, StepLog
from sage_jax.parameters import Params, split
from sage_jax.process.stop_request import StopRequest
from sage_jax.sharding import batch_sharding, param_shardings
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.optim import freeze_table, make_optimizer, make_schedule, partition
from sage_jax.training.step import CompiledStep, Objective, TrainState, init_state, jit_step, state_shardings

Item = TypeVar("Item")

Encode = Callable[[TreeBatch], Callable[[], TreeBatch]]
"""Begins to compute a batch whose images are ViT features, and gives what waits for it (`CachedFeatures.begin`)."""


class Loader(Protocol):
    """An endless stream of this process's batches, in numpy, whose position can be saved."""

    def __next__(self) -> TreeBatch: ...

    def get_state(self) -> Any:
        """Position after the last batch given: bytes or JSON values."""
        ...

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The end of a stage.

    Attributes:
      params: All parameters, trained and frozen, by path.
      seconds: Wall-clock time trained, that before a resume included.
      steps: Steps done.
      interrupted: True where a signal stopped it; the same call resumes.
      shares: `input_wait` and `padding` of the steps done now (`StepLog.shares`).
      counts: `compilations`, and `compile_seconds` that they took.
    """

    params: Params
    seconds: float
    steps: int
    interrupted: bool
    shares: dict[str, float]
    counts: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """One training stage, from its start or its newest checkpoint to its last step.

    Attributes:
      stage: Its name, for messages.
      log: Its log.
      train: Its config.
      objective: The loss.
      loader: This process's rows; moved to the checkpoint's position on a resume.
      mesh: The devices.
      checkpoints: Folder of the state, and in the end of all parameters.
      config_json: The config, kept with checkpoints; a resume logs the changes.
      record_ids: Names of data set rows, for the log of skipped steps.
      encode: Puts images into a batch as their ViT features, computed beside the steps.
      attach: Completes a batch on the host, such as with reference log-probabilities.
      evaluate: Scores all parameters every `eval_every` steps and at the end; `score` picks the best checkpoint.
      finish: Gets all parameters after the last step, before the stage is marked as finished.
    """

    stage: str
    log: RunLog
    train: TrainConfig
    objective: Objective
    loader: Loader
    mesh: Mesh
    checkpoints: StageCheckpoints
    config_json: str
    record_ids: Callable[[np.ndarray], list[str]]
    encode: Encode | None = None
    attach: Callable[[TreeBatch], TreeBatch] | None = None
    evaluate: Callable[[Params], Mapping[str, float]] | None = None
    finish: Callable[[Params], None] | None = None

    def fit(self, model: nnx.Module) -> FitResult:
        """Trains a model, which is not changed.

        SIGINT and SIGTERM finish the running step, save a checkpoint and return; a second one aborts. Stopped or killed
        and called again, it ends with the parameters of a call that was never stopped.

        Raises:
          ConfigError, CheckpointError: Freeze patterns, batch size or newest checkpoint do not fit the model or mesh.
          TrainingDiverged: Ten steps in a row were not finite.
        """
        check_batch_size(self.stage, self.train, self.mesh)
        started = time.monotonic()
        graphdef, params = split(model)
        trainable, frozen = partition(params, self.train.freeze)
        del model, params  # the start would stay on the devices beside the state
        self.log.line("\n" + freeze_table(trainable, frozen))
        optimizer = make_optimizer(self.train)
        with jax.set_mesh(self.mesh), StopRequest(self.log.line, self.mesh) as stop:
            frozen = jax.device_put(frozen, param_shardings(frozen, self.mesh))
            state, before = self._start(functools.partial(init_state, optimizer=optimizer), trainable)
            del trainable
            jitted = jit_step(state, self.mesh, graphdef, optimizer, self.objective, self.train.accumulate)
            compiled = CompiledStep(jitted, self.log.line)
            began = started - before
            steps, state, shares = self._train(state, frozen, compiled, stop, began)
            self._finish({**frozen, **state.trainable}, done=steps == self.train.steps)
        counts = {"compilations": len(compiled.seconds), "compile_seconds": sum(compiled.seconds)}
        seconds, interrupted = time.monotonic() - began, steps < self.train.steps
        return FitResult({**frozen, **state.trainable}, seconds, steps, interrupted, shares, counts)

    def _train(
        self, state: TrainState, frozen: Params, compiled: CompiledStep, stop: StopRequest, began: float
    ) -> tuple[int, TrainState, dict[str, float]]:
        """Steps until the last one or a stop; the steps done, the state after them, and shares of their time."""
        train, first = self.train, int(state.step)
        with self.log.progress(train.steps, done=first) as advance:
            log = StepLog(self.log, train, make_schedule(train), self.record_ids, advance)
            log.resume(first, int(state.num_skipped), int(state.num_skipped_in_row))
            batches = self._batches_ahead(train.steps - first)
            keeper = _Keeper(self.checkpoints, self.config_json, began, frozen, self.evaluate, log)
            step = first
            while step < train.steps:
                waiting = time.monotonic()
                batch, given, loader_state = next(batches)
                if log.is_idle():  # while the step before still runs, the loop waits but the devices do not
                    given = dataclasses.replace(given, waited=time.monotonic() - waiting)
                state, metrics = compiled(state, frozen, batch)
                step += 1
                log.follow(step, metrics, given)  # waits for the step before, while this one runs
                self.checkpoints.seal_written()
                stopping = stop.agreed()
                evaluating = _is_due(step, train.eval_every, train.steps) and not stopping
                if stopping or evaluating or _is_due(step, train.checkpoint_every, train.steps):
                    log.catch_up()
                    keeper.save(step, state, loader_state, scored=evaluating)
                if stopping:
                    break
            return step, state, log.shares()

    def _finish(self, params: Params, *, done: bool) -> None:
        """Waits for the checkpoints, or, where all steps are done, writes the final parameters."""
        if self.checkpoints.best_step is not None:
            self.log.line(f"lowest validation loss at step {self.checkpoints.best_step}; its checkpoint is kept")
        if not done:
            self.checkpoints.wait()
            return
        if self.finish is not None:
            self.finish(params)
        self.checkpoints.save_final(params, config_json=self.config_json)

    def _start(self, init: Callable[[Params], TrainState], trainable: Params) -> tuple[TrainState, float]:
        """The newest checkpoint's state, or a first one born on its shardings; and the seconds trained before."""
        shapes = jax.eval_shape(init, trainable)
        shardings = state_shardings(shapes, self.mesh)
        abstract = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
        )
        restored = self.checkpoints.restore_latest(abstract)
        if restored is None:
            return jax.jit(init, out_shardings=shardings)(jax.device_put(trainable, shardings.trainable)), 0.0
        self.loader.set_state(restored.loader_state)
        self.log.line(f"resumed from step {restored.step}")
        changes = config_changes(restored.config_json, self.config_json)
        if changes:
            self.log.line("the config has changed since that checkpoint:\n  " + "\n  ".join(map(str, changes)))
        return restored.state, restored.seconds

    def _batches_ahead(self, num_batches: int) -> Iterator[_Ahead]:
        """Batches on the devices, one ahead of the step, each with its entry of the log and the loader's position.

        With `encode` the loader is one batch further ahead: the devices compute its features before the step that they
        run while the features are laid out, so that neither waits for the other.
        """
        sharding, encode, attach = batch_sharding(self.mesh), self.encode, self.attach

        def read() -> Iterator[tuple[Callable[[], TreeBatch], Any]]:
            for number in range(num_batches):
                try:
                    batch = next(self.loader)
                except StopIteration:
                    left = num_batches - number
                    raise RuntimeError(
                        f"{self.stage}: the data ended {left} batches before the last step; make the stream repeat"
                    ) from None
                begun = encode(batch) if encode else functools.partial(_same, batch)
                yield begun, self.loader.get_state()

        def on_devices() -> Iterator[_Ahead]:
            for begun, position in _one_ahead(read()) if encode else read():
                batch = begun() if attach is None else attach(begun())
                rows = jax.tree.map(
                    lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
                )
                mask = np.asarray(batch.token_mask)
                yield rows, StepInput(np.asarray(batch.record_index), int(np.count_nonzero(mask)), mask.size), position

        return _one_ahead(on_devices())


_Ahead = tuple[TreeBatch, StepInput, Any]


@dataclasses.dataclass(frozen=True)
class _Keeper:
    """Saves the states of a stage, and scores those that are to be scored.

    Attributes:
      began: Where the clock would have stood at the start of the stage, had it never stopped.
      frozen: Parameters that do not train.
    """

    checkpoints: StageCheckpoints
    config_json: str
    began: float
    frozen: Params
    evaluate: Callable[[Params], Mapping[str, float]] | None
    log: StepLog

    def save(self, step: int, state: TrainState, loader_state: Any, *, scored: bool) -> None:
        score = self._score(step, state) if scored else None
        about = {"config_json": self.config_json, "seconds": time.monotonic() - self.began, "score": score}
        self.checkpoints.save(step, state, loader_state=loader_state, **about)

    def _score(self, step: int, state: TrainState) -> float | None:
        if self.evaluate is None:
            return None
        found = self.log.evaluation(step, self.evaluate({**self.frozen, **state.trainable}))
        return found if math.isfinite(found) else None  # a loss that is not finite is no candidate for the best


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _same(batch: TreeBatch) -> TreeBatch:
    return batch


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each when the one behind it is made."""
    ahead: deque[Item] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > 1:
            yield ahead.popleft()
    yield from ahead


def check_batch_size(stage: str, train: TrainConfig, mesh: Mesh) -> None:
    """Checks that the devices of a mesh share a stage's micro-batches evenly.

    Raises:
      ConfigError: They do not; the message has a batch size that they do.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in ("data", "fsdp")]))
    if train.batch_size // train.accumulate % parts:
        raise ConfigError(
            f"{stage}: micro-batches of batch_size / accumulate = {train.batch_size // train.accumulate} rows do not "
            f"divide over the {parts} devices of mesh axes data x fsdp; give a multiple of {parts * train.accumulate}"
        )
