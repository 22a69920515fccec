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
from jax.sharding import Mesh, NamedSharding

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, TrainConfig
from sage_jax.journal.run_log import RunLog, StepInput, StepLog
from sage_jax.parameters import Params, split
from sage_jax.process.stop_request import StopRequest
from sage_jax.sharding import batch_sharding, param_shardings
from sage_jax.training.checkpoint import StageCheckpoints, config_changes
from sage_jax.training.optim import freeze_table, make_optimizer, make_schedule, partition
from sage_jax.training.step import CompiledStep, Objective, TrainState, init_state, jit_step, state_shardings

Item = TypeVar("Item")

Encode = Callable[[TreeBatch], Callable[[], TreeBatch]]
"""Begins to compute a batch whose images are ViT features, and gives what waits for it (`KeptFeatures.begin`)."""


class Loader(Protocol):
    """An endless stream of this process's batches, in numpy, whose position can be saved."""

    def __next__(self) -> TreeBatch: ...

    def get_state(self) -> Any:
        """Position after the last batch given: bytes or JSON values."""
        ...

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a stage ends with.

    Attributes:
      params: All parameters, trained and frozen, by path.
      seconds: Wall-clock time trained, that before a resume included.
      steps: Steps done.
      interrupted: True where a signal stopped it; the same call resumes.
    """

    params: Params
    seconds: float
    steps: int
    interrupted: bool


def fit(
    *,
    stage: str,
    run: RunLog,
    train: TrainConfig,
    model: nnx.Module,
    objective: Objective,
    loader: Loader,
    mesh: Mesh,
    checkpoints: StageCheckpoints,
    config_json: str,
    record_ids: Callable[[np.ndarray], list[str]],
    encode: Encode | None = None,
    attach: Callable[[TreeBatch], TreeBatch] | None = None,
    evaluate: Callable[[Params], Mapping[str, float]] | None = None,
    finish: Callable[[Params], None] | None = None,
) -> FitResult:
    """Trains a stage to its last step, from its newest checkpoint where there is one.

    SIGINT and SIGTERM finish the running step, save a checkpoint and return; a second one aborts. Stopped or killed
    and called again, it ends with the parameters of a call that was never stopped.

    Args:
      model: The start; it is not changed.
      objective: The loss.
      loader: This process's rows; moved to the checkpoint's position on a resume.
      checkpoints: Where the state, and in the end all parameters, are saved.
      config_json: The config, kept with checkpoints; a resume logs what changed.
      record_ids: Names of data set rows, for the log of skipped steps.
      encode: Puts images into a batch as their ViT features, computed beside the steps.
      attach: Completes a batch on the host, such as with reference log-probabilities.
      evaluate: Scores all parameters every `eval_every` steps and at the end; `score` picks the best checkpoint.
      finish: Gets all parameters after the last step, before the stage is marked as finished.

    Raises:
      ConfigError, CheckpointError: Freeze patterns, batch size or newest checkpoint do not fit the model or the mesh.
      TrainingDiverged: Ten steps in a row were not finite.
    """
    check_batch_size(stage, train, mesh)
    started = time.monotonic()
    graphdef, params = split(model)
    trainable, frozen = partition(params, train.freeze)
    del model, params  # the start would stay on the devices beside the state
    run.line("\n" + freeze_table(trainable, frozen))
    optimizer = make_optimizer(train)
    with jax.set_mesh(mesh), StopRequest(run.line, mesh) as stop:
        frozen = jax.device_put(frozen, param_shardings(frozen, mesh))
        init = functools.partial(init_state, optimizer=optimizer)
        state, before = _start_or_resume(run, init, trainable, mesh, checkpoints, loader, config_json)
        del trainable
        first, began = int(state.step), started - before
        compiled = CompiledStep(jit_step(state, mesh, graphdef, optimizer, objective, train.accumulate), run.line)
        with run.progress(train.steps, done=first) as advance:
            log = StepLog(run, train, make_schedule(train), record_ids, advance)
            log.resume(first, int(state.num_skipped), int(state.num_skipped_in_row))
            batches = _batches_ahead(stage, loader, batch_sharding(mesh), encode, attach, train.steps - first)
            keeper = _Keeper(checkpoints, config_json, began, frozen, evaluate, log)
            steps, state = _train(state, first, compiled, batches, train, stop, keeper)
            run.shares = log.shares()
            run.counts = {"compilations": len(compiled.seconds), "compile_seconds": sum(compiled.seconds)}
        if checkpoints.best_step is not None:
            run.line(f"lowest validation loss at step {checkpoints.best_step}; its checkpoint is kept")
        params, interrupted = {**frozen, **state.trainable}, steps < train.steps
        if interrupted:
            checkpoints.wait()
        else:
            if finish is not None:
                finish(params)
            checkpoints.save_final(params, config_json=config_json)
    return FitResult(params, time.monotonic() - began, steps, interrupted)


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


def _train(
    state: TrainState,
    first: int,
    compiled: CompiledStep,
    batches: Iterator[_Ahead],
    train: TrainConfig,
    stop: StopRequest,
    keeper: _Keeper,
) -> tuple[int, TrainState]:
    """Steps until the last one or a stop; the steps done and the state after them."""
    step, log = first, keeper.log
    while step < train.steps:
        began = time.monotonic()
        batch, given, loader_state = next(batches)
        if log.is_idle():  # while the step before still runs, the loop waits but the devices do not
            given = dataclasses.replace(given, waited=time.monotonic() - began)
        state, metrics = compiled(state, keeper.frozen, batch)
        step += 1
        log.follow(step, metrics, given)  # waits for the step before, while this one runs
        stopping = stop.agreed()
        evaluating = _is_due(step, train.eval_every, train.steps) and not stopping
        if stopping or evaluating or _is_due(step, train.checkpoint_every, train.steps):
            log.catch_up()
            keeper.save(step, state, loader_state, scored=evaluating)
        if stopping:
            break
    return step, state


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _start_or_resume(
    run: RunLog,
    init: Callable[[Params], TrainState],
    trainable: Params,
    mesh: Mesh,
    checkpoints: StageCheckpoints,
    loader: Loader,
    config_json: str,
) -> tuple[TrainState, float]:
    """The newest checkpoint's state, or a first one born on its shardings; and the seconds trained before."""
    shapes = jax.eval_shape(init, trainable)
    shardings = state_shardings(shapes, mesh)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )
    restored = checkpoints.restore_latest(abstract)
    if restored is None:
        return jax.jit(init, out_shardings=shardings)(jax.device_put(trainable, shardings.trainable)), 0.0
    loader.set_state(restored.loader_state)
    run.line(f"resumed from step {restored.step}")
    changes = config_changes(restored.config_json, config_json)
    if changes:
        run.line("the config has changed since that checkpoint:\n  " + "\n  ".join(changes))
    return restored.state, restored.seconds


_Ahead = tuple[TreeBatch, StepInput, Any]


def _batches_ahead(
    stage: str,
    loader: Loader,
    sharding: NamedSharding,
    encode: Encode | None,
    attach: Callable[[TreeBatch], TreeBatch] | None,
    num_batches: int,
) -> Iterator[_Ahead]:
    """Batches on the devices, one ahead of the step, each with what the log says of it and the loader's position.

    With `encode` the loader is one batch further ahead: the devices compute its features before the step that they run
    while the features are laid out, so that neither waits for the other.
    """

    def read() -> Iterator[tuple[Callable[[], TreeBatch], Any]]:
        for number in range(num_batches):
            try:
                batch = next(loader)
            except StopIteration:
                left = num_batches - number
                raise RuntimeError(
                    f"{stage}: the data ended {left} batches before the last step; make the stream repeat"
                ) from None
            begun = encode(batch) if encode else functools.partial(_same, batch)
            yield begun, loader.get_state()

    def placed() -> Iterator[_Ahead]:
        for begun, position in _one_ahead(read()) if encode else read():
            batch = begun() if attach is None else attach(begun())
            rows = jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)
            mask = np.asarray(batch.token_mask)
            yield rows, StepInput(np.asarray(batch.record_index), int(np.count_nonzero(mask)), mask.size), position

    return _one_ahead(placed())


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
