"""One optimizer step: the state, the step on a batch, and its compiled form on a mesh."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.batch import TreeBatch
from sage_jax.parameters import Params, merge
from sage_jax.process.allocator import give_back_freed_memory
from sage_jax.sharding import opt_state_shardings, param_shardings

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: Steps done, skipped ones included.
      trainable: Parameters that train, by path.
      opt_state: Optimizer state; its own count leaves skipped steps out.
      num_skipped: Steps that changed nothing: their loss or gradient was not finite, or their gradient was zero.
      num_skipped_in_row: Those since the last finite step.
    """

    step: jax.Array
    trainable: Params
    opt_state: optax.OptState
    num_skipped: jax.Array
    num_skipped_in_row: jax.Array


def init_state(trainable: Params, *, optimizer: optax.GradientTransformationExtraArgs) -> TrainState:
    """The state before the first step. Copies the parameters, since steps donate theirs."""
    trainable = jax.tree.map(jnp.copy, trainable)
    step, num_skipped, num_in_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # one buffer cannot be donated thrice
    return TrainState(step, trainable, optimizer.init(trainable), num_skipped, num_in_row)


def train_step(
    state: TrainState,
    frozen: Params,
    batch: TreeBatch,
    *,
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    accumulate: int,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on a batch; gradients with respect to `state.trainable` alone.

    The batch is cut into `accumulate` micro-batches, one after the other in memory; the result is that of the whole
    batch to float error. A loss or gradient norm that is not finite leaves parameters and optimizer as they were:
    only the step and the counters move. So does a gradient of zero, of a batch with nothing to learn, such as ranked
    answers of equal scores: weight decay and momentum alone would change the model.

    Returns:
      The next state, and the objective's metrics with `loss`, `grad_norm` (before clipping), `skipped` (0 or 1, not
      finite) and `empty` (0 or 1, zero).
    """
    normalizers = objective.normalizers(batch)

    def loss_of(trainable: Params, micro_batch: TreeBatch) -> tuple[jax.Array, Metrics]:
        return objective(merge(graphdef, {**frozen, **trainable}), micro_batch, normalizers)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    (loss, metrics), gradients = _summed(functools.partial(gradient_of, state.trainable), batch, accumulate)
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    learns = finite & (grad_norm > 0)
    with jax.named_scope("optimizer"):  # a name for profiles
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable, finite=learns)
        trainable = optax.apply_updates(state.trainable, updates)
    skipped, empty = (value.astype(jnp.int32) for value in (~finite, finite & ~learns))

    one = jnp.ones((), jnp.float32)
    metrics = {
        **metrics,
        "loss": (loss, one),
        "grad_norm": (grad_norm, one),
        "skipped": (skipped, one),
        "empty": (empty, one),
    }
    return TrainState(
        step=state.step + 1,
        trainable=jax.tree.map(lambda new, old: jnp.where(learns, new, old), trainable, state.trainable),
        opt_state=opt_state,
        num_skipped=state.num_skipped + skipped + empty,
        num_skipped_in_row=jnp.where(finite, 0, state.num_skipped_in_row + 1),
    ), metrics


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
    optimizer: optax.GradientTransformationExtraArgs,
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


class CompiledStep:
    """A jitted step, compiled once for each shape that its batches come in, before the first of them runs.

    Attributes:
      seconds: Time that each compilation took, tracing included, in order.
      peak_bytes: Memory of a device in each of these programs as the compiler counts it, arguments included; 0 where it
        does not tell.
    """

    def __init__(self, jitted: Any, tell: Callable[[str], None] = lambda _: None) -> None:
        """Wraps `jit_step`; `tell` gets a line for each shape."""
        self.seconds: list[float] = []
        self.peak_bytes: list[int] = []
        self._jitted, self._tell = jitted, tell
        self._compiled: dict[Any, Callable[..., tuple[TrainState, Metrics]]] = {}

    def __call__(self, state: TrainState, frozen: Params, batch: TreeBatch) -> tuple[TrainState, Metrics]:
        """The state after the step, and its metrics."""
        leaves, structure = jax.tree.flatten(batch)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self._compiled:
            start = time.monotonic()
            self._compiled[key] = self._jitted.lower(state, frozen, batch).compile()
            give_back_freed_memory()  # of the compiler's own, before the step takes as much
            self.seconds.append(time.monotonic() - start)
            rows, length = batch.token_ids.shape
            shape = f"{rows} rows of {length} tokens{'' if batch.reference_tiles.shape[1] else ' without references'}"
            self.peak_bytes.append(_peak_bytes(self._compiled[key]))
            memory = f", {self.peak_bytes[-1] / 1e9:.2f} GB" if self.peak_bytes[-1] else ""
            self._tell(f"compiled for {shape} in {self.seconds[-1]:.1f} s{memory} (shape {len(self.seconds)})")
            done = jax.block_until_ready(self._compiled[key](state, frozen, batch))
            give_back_freed_memory()  # what the first run keeps lies about in it, and the next one takes its own
            return done
        return self._compiled[key](state, frozen, batch)


def _peak_bytes(compiled: Any) -> int:
    """Arguments, results that take no argument's place, and temporaries of a program on one device."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where a training state lives (arrays or shapes)."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    trainable: Any = param_shardings(state.trainable, mesh)
    return TrainState(whole, trainable, opt_state_shardings(state.opt_state, mesh), whole, whole)
