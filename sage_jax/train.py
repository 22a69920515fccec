"""One training stage: the loop over its steps that resumes, logs, saves and stops."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from sage_jax.batch import TreeBatch
from sage_jax.checkpoint import StageCheckpoints, config_changes
from sage_jax.config import ConfigError, TrainConfig
from sage_jax.optim import freeze_table, make_optimizer, make_schedule, partition
from sage_jax.parameters import Params, split
from sage_jax.run_log import RunLog, StepInput, StepLog
from sage_jax.sharding import batch_sharding, param_shardings
from sage_jax.step import CompiledStep, Metrics, Objective, TrainState, init_state, jit_step, state_shardings
from sage_jax.stop_request import StopRequest


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
    seed: int,
    checkpoints: StageCheckpoints,
    config_json: str,
    record_ids: Callable[[np.ndarray], list[str]],
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
        init = functools.partial(init_state, optimizer=optimizer, seed=seed)
        state, before = _start_or_resume(run, init, trainable, mesh, checkpoints, loader, config_json)
        del trainable
        first = int(state.step)
        compiled = CompiledStep(jit_step(state, mesh, graphdef, optimizer, objective, train.accumulate), run.line)

        def step_fn(state: TrainState, batch: TreeBatch) -> tuple[TrainState, Metrics]:
            return compiled(state, frozen, batch)

        def save(step: int, state: TrainState, loader_state: Any, score: float | None) -> None:
            about = {"config_json": config_json, "seconds": before + time.monotonic() - started, "score": score}
            checkpoints.save(step, state, loader_state=loader_state, **about)

        def score(step: int, state: TrainState) -> float | None:
            if evaluate is None:
                return None
            found = log.evaluation(step, evaluate({**frozen, **state.trainable}))
            return found if math.isfinite(found) else None  # a loss that is not finite is no candidate for the best

        with run.progress(train.steps, done=first) as advance:
            log = StepLog(run, train, make_schedule(train), record_ids, advance)
            log.resume(first, int(state.num_skipped), int(state.num_skipped_in_row))
            batches = _batches_ahead(stage, loader, batch_sharding(mesh), attach, train.steps - first)
            steps, state = _train(state, first, step_fn, batches, train, stop, log, score, save)
            run.shares = log.shares()
            run.counts = {"compilations": len(compiled.seconds), "compile_seconds": sum(compiled.seconds)}
        if checkpoints.best_step is not None:
            run.line(f"lowest validation loss at step {checkpoints.best_step}; its checkpoint is kept")
        params = {**frozen, **state.trainable}
        interrupted = steps < train.steps
        if interrupted:
            checkpoints.wait()
        else:
            if finish is not None:
                finish(params)
            checkpoints.save_final(params, config_json=config_json)
    return FitResult(params, before + time.monotonic() - started, steps, interrupted)


def _train(
    state: TrainState,
    first: int,
    step_fn: Callable[[TrainState, TreeBatch], tuple[TrainState, Metrics]],
    batches: Iterator[_Ahead],
    train: TrainConfig,
    stop: StopRequest,
    log: StepLog,
    score: Callable[[int, TrainState], float | None],
    save: Callable[[int, TrainState, Any, float | None], None],
) -> tuple[int, TrainState]:
    """Steps until the last one or a stop; the steps done and the state after them."""
    step = first
    while step < train.steps:
        began = time.monotonic()
        batch, given, loader_state = next(batches)
        if log.is_idle():  # while the step before still runs, the loop waits but the devices do not
            given = dataclasses.replace(given, waited=time.monotonic() - began)
        state, metrics = step_fn(state, batch)
        step += 1
        log.follow(step, metrics, given)  # waits for the step before, while this one runs
        stopping = stop.agreed()
        evaluating = _is_due(step, train.eval_every, train.steps) and not stopping
        if stopping or evaluating or _is_due(step, train.checkpoint_every, train.steps):
            log.catch_up()
            save(step, state, loader_state, score(step, state) if evaluating else None)
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
    attach: Callable[[TreeBatch], TreeBatch] | None,
    num_batches: int,
) -> Iterator[_Ahead]:
    """Batches on the devices, one ahead of the step, each with what the log says of it and the loader's position."""

    def load(number: int) -> _Ahead:
        try:
            batch = next(loader)
        except StopIteration:
            raise RuntimeError(
                f"{stage}: the data ended {num_batches - number} batches before the last step; make the stream repeat"
            ) from None
        position = loader.get_state()
        batch = batch if attach is None else attach(batch)
        placed = jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)
        mask = np.asarray(batch.token_mask)
        return placed, StepInput(np.asarray(batch.record_index), int(np.count_nonzero(mask)), mask.size), position

    ahead: deque[_Ahead] = deque()
    for number in range(num_batches):
        ahead.append(load(number))
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
