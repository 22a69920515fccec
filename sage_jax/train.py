"""One training stage: the state, the step, and the loop that resumes, logs, saves and stops."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.batch import TreeBatch
from sage_jax.checkpoint import StageCheckpoints, config_changes
from sage_jax.config import ConfigError, TrainConfig
from sage_jax.optim import freeze_table, make_optimizer, make_schedule, partition
from sage_jax.parameters import Params, merge, split
from sage_jax.run_log import RunLog, StepInput, StepLog
from sage_jax.sharding import batch_sharding, opt_state_shardings, param_shardings
from sage_jax.stop_request import StopRequest

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Weighted metrics as (sum, count): micro-batches, steps and processes add up exactly."""


class Objective(Protocol):
    """A loss that adds up over micro-batches: each gives its summand, already divided by the whole batch's counts."""

    def normalizers(self, batch: TreeBatch) -> dict[str, jax.Array]:
        """Denominators over the whole batch, such as its number of answer tokens."""
        ...

    def __call__(self, model: Any, batch: TreeBatch, normalizers: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        """The micro-batch's summand of the loss, a float32 scalar, and its metrics as (sum, count)."""
        ...


class Loader(Protocol):
    """An endless stream of this process's batches, in numpy, whose position can be saved."""

    def __next__(self) -> TreeBatch: ...

    def get_state(self) -> Any:
        """Position after the last batch given: bytes or JSON values."""
        ...

    def set_state(self, state: Any) -> None: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: Steps done, skipped ones included.
      trainable: Parameters that train, by path.
      opt_state: Optimizer state; its own count leaves skipped steps out.
      rng: Key data, uint32[2]; constant, an objective that draws folds the step in.
      num_skipped: Steps skipped for a loss or gradient that was not finite.
      num_skipped_in_row: Those since the last finite step.
    """

    step: jax.Array
    trainable: Params
    opt_state: optax.OptState
    rng: jax.Array
    num_skipped: jax.Array
    num_skipped_in_row: jax.Array


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


def init_state(trainable: Params, *, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Copies the parameters, since steps donate theirs."""
    trainable = jax.tree.map(jnp.copy, trainable)
    step, num_skipped, num_in_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # one buffer cannot be donated thrice
    rng = jax.random.key_data(jax.random.key(seed))
    return TrainState(step, trainable, optimizer.init(trainable), rng, num_skipped, num_in_row)


def train_step(
    state: TrainState,
    frozen: Params,
    batch: TreeBatch,
    *,
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    objective: Objective,
    accumulate: int,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on a batch; gradients with respect to `state.trainable` alone.

    The batch is cut into `accumulate` micro-batches, one after the other in memory; the result is that of the whole
    batch to float error. A loss or gradient norm that is not finite leaves parameters and optimizer as they were:
    only the step and the counters move.

    Returns:
      The next state, and the objective's metrics with `loss`, `grad_norm` (before clipping) and `skipped` (0 or 1).
    """
    normalizers = objective.normalizers(batch)

    def loss_of(trainable: Params, micro_batch: TreeBatch) -> tuple[jax.Array, Metrics]:
        return objective(merge(graphdef, {**frozen, **trainable}), micro_batch, normalizers)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    (loss, metrics), gradients = _summed(functools.partial(gradient_of, state.trainable), batch, accumulate)
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    skipped = 1 - finite.astype(jnp.int32)

    def unless_skipped(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    one = jnp.ones((), jnp.float32)
    metrics = {**metrics, "loss": (loss, one), "grad_norm": (grad_norm, one), "skipped": (skipped, one)}
    return TrainState(
        step=state.step + 1,
        trainable=unless_skipped(trainable, state.trainable),
        opt_state=unless_skipped(opt_state, state.opt_state),
        rng=state.rng,
        num_skipped=state.num_skipped + skipped,
        num_skipped_in_row=jnp.where(finite, 0, state.num_skipped_in_row + 1),
    ), metrics


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
        jitted = jit_step(state, mesh, graphdef, optimizer, objective, train.accumulate)

        def step_fn(state: TrainState, batch: TreeBatch) -> tuple[TrainState, Metrics]:
            return jitted(state, frozen, batch)

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


def _summed(
    gradient_of: Callable[[TreeBatch], tuple[tuple[jax.Array, Metrics], Params]], batch: TreeBatch, accumulate: int
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """Loss, metrics and gradients, added up over `accumulate` micro-batches."""
    if accumulate == 1:
        return gradient_of(batch)

    def cut(rows: jax.Array) -> jax.Array:
        # Rows a, a + A, a + 2A, ... make micro-batch a, so that each takes the same number from every device's block.
        # Rows are counted, not left to -1: a batch that shows no reference has tiles of no size.
        return jnp.swapaxes(rows.reshape(rows.shape[0] // accumulate, accumulate, *rows.shape[1:]), 0, 1)

    def add(total: Any, micro_batch: TreeBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of(micro_batch)), None

    micro_batches = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(gradient_of, jax.tree.map(lambda rows: rows[0], micro_batches))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(add, zeros, micro_batches)[0]


def jit_step(
    state: TrainState,
    mesh: Mesh,
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    objective: Objective,
    accumulate: int,
) -> Any:
    """The jitted `step(state, frozen, batch)` of a stage; `state` may be shapes.

    It donates the state and gives metrics whole on every device, for every process to read.
    """
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=optimizer, objective=objective, accumulate=accumulate
    )
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings(state, mesh), whole))


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where a training state lives (arrays or shapes)."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    trainable: Any = param_shardings(state.trainable, mesh)
    return TrainState(whole, trainable, opt_state_shardings(state.opt_state, mesh), whole, whole, whole)


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
