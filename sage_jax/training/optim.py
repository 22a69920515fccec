"""What trains and how: learning-rate schedule, optimizer, and the freeze table with its coverage check."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from sage_jax.config import ConfigError, TrainConfig
from sage_jax.models.lora import TRAINED
from sage_jax.parameters import Params, count

# Parameters that decay, by the last part of their path. The number of axes cannot tell a matrix from a norm scale:
# under `blocks/` every parameter has a leading layer axis, so a norm scale has two.
DECAYED: Final = ("kernel", "embedding", "lora_a", "lora_b")

_NO_LAYER: Final = ("stem/", "output/")
"""Parts of paths whose kernels Muon leaves to AdamW: convolutions and the output layer, as its authors do."""
_MUON_RMS: Final = 0.2
"""Root mean square of Muon's updates before the learning rate: about that of AdamW's (Liu et al. 2025)."""


def make_schedule(train: TrainConfig) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Learning rate of each update: linear warm-up, then cosine decay to `end_ratio` of the peak, or constant.

    Update i of the warm-up has peak * (i + 1) / warmup_steps, so that the first one already moves and the last one has
    the peak. The cosine ends at update `steps`; later updates stay at its end.
    """
    peak, end, warmup = train.peak_learning_rate, train.peak_learning_rate * train.end_ratio, train.warmup_steps

    def learning_rate(update: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(update, jnp.float32)
        if train.schedule == "constant":
            after = jnp.full_like(done, peak)
        else:
            progress = jnp.clip((done - warmup) / max(train.steps - warmup, 1), 0.0, 1.0)
            after = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(done < warmup, peak * (done + 1.0) / max(warmup, 1), after)

    return learning_rate


def make_optimizer(train: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """AdamW or Muon on gradients clipped to a global norm of `clip_norm`; only matrices decay (see DECAYED).

    Norm scales, biases, LayerScale and learned single vectors keep their size: pulling them to zero would change what
    a layer computes, not how complex it is. `update` takes `finite`, a truth value: where it is False the state stays
    as it was, and the updates mean nothing.
    """
    adamw = optax.chain(  # as optax.adamw nests it, so that states are the same
        scale_by_adam_in_place(train.b1, train.b2),
        optax.add_decayed_weights(train.weight_decay, decays),
        optax.scale_by_learning_rate(make_schedule(train)),
    )
    muon = train.optimizer == "muon"
    inner = optax.chain(clip_by_global_norm(train.clip_norm), _muon(train, adamw) if muon else adamw)
    return _unless_skipped(inner, moments_stay=not muon)


def _muon(train: TrainConfig, others: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Muon (Jordan et al. 2024) on the matrices of layers, each layer's by itself; `others` on all else.

    The momentum of a matrix [.., N, M] becomes the nearest matrix with orthogonal columns or rows, by five
    Newton-Schulz iterations, and is scaled to a root mean square of `_MUON_RMS`, as that of AdamW's updates, so that
    rates and weight decay mean the same for both (Liu et al. 2025, "Muon is scalable for LLM training").
    """

    def scaled(update: jax.Array, _: jax.Array) -> jax.Array:
        return update * (_MUON_RMS * max(update.shape[-2:]) ** 0.5)

    muon = optax.chain(
        scale_by_muon(weight_dimension_numbers=_matrices),
        optax.stateless_with_tree_map(cast(Any, scaled)),
        optax.add_decayed_weights(train.weight_decay),
        optax.scale_by_learning_rate(make_schedule(train)),
    )

    def by_kind(params: Params) -> dict[str, str]:
        return {path: "muon" if orthogonalised(path, jnp.ndim(leaf)) else "others" for path, leaf in params.items()}

    return optax.with_extra_args_support(optax.partition({"muon": muon, "others": others}, by_kind))


def orthogonalised(path: str, axes: int) -> bool:
    """Whether a parameter is a matrix of a layer, or of layers that stand one after the other."""
    kernel = path.rsplit("/", 1)[-1] == "kernel" and not any(part in path for part in _NO_LAYER)
    return kernel and axes == (3 if "/blocks/" in path else 2)


def _matrices(params: Any) -> Any:
    """Which axes of each parameter are its matrices': the last two."""
    return jax.tree.map(lambda leaf: MuonDimensionNumbers((leaf.ndim - 2,), (leaf.ndim - 1,)), params)


def _unless_skipped(
    inner: optax.GradientTransformationExtraArgs, *, moments_stay: bool
) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose state stays as it was where `finite` is False.

    Args:
      moments_stay: `inner` sees to its moments itself, so that its counts alone have to be held.
    """

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        finite: jax.Array | bool = True,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, new = inner.update(updates, state, params, finite=finite)

        def held(new: jax.Array, old: jax.Array) -> jax.Array:
            return new if moments_stay and jnp.ndim(new) else jnp.where(finite, new, old)

        return updates, jax.tree.map(held, new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """optax.clip_by_global_norm by one factor for all: quotients would be kept in memory for their two readers."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), updates), state

    return optax.GradientTransformation(optax.identity().init, update)


def scale_by_adam_in_place(b1: float, b2: float, eps: float = 1e-8) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam, computed so that XLA writes the moments of a donated state where they lie.

    Its `update` takes `finite`; where that is False the moments stay as they were. That is chosen before the update
    reads them: if it were chosen at the end, a CPU would copy the largest moments first.
    """

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        finite: jax.Array | bool = True,
        **_: Any,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)

        def unless_skipped(new: optax.Updates, old: optax.Updates) -> optax.Updates:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        mu = unless_skipped(optax.tree.update_moment(updates, state.mu, b1, 1), state.mu)
        nu = unless_skipped(optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2), state.nu)
        count = optax.safe_increment(state.count)
        mean, square = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu, b2, count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mean, square)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam(b1, b2, eps).init, update)


def decays(params: Params) -> dict[str, bool]:
    """Whether weight decay applies, by path."""
    return {path: path.rsplit("/", 1)[-1] in DECAYED for path in params}


def partition(params: Params, freeze: tuple[str, ...]) -> tuple[Params, Params]:
    """Splits parameters into those that train and those that stay.

    Adapters (`lora_a`, `lora_b`) train, and nothing else of the part that has them.

    Args:
      params: All parameters, by path.
      freeze: Regular expressions matched from the start of the path; what any of them matches is frozen.

    Returns:
      (trainable, frozen); together every parameter once.

    Raises:
      ConfigError: A pattern is no regular expression or matches no parameter, or nothing is left to train.
    """
    patterns = [_compiled(pattern) for pattern in freeze]
    for pattern in patterns:
        if not any(pattern.match(path) for path in params):
            raise ConfigError(
                f"freeze: {pattern.pattern!r} matches no parameter; {_nearest_paths(pattern.pattern, params)}"
            )
    adapters = {path for path in params if path.endswith(TRAINED)}
    adapted = tuple({path.split("/", 1)[0] + "/" for path in adapters})

    def stays(path: str) -> bool:
        return path.startswith(adapted) or any(pattern.match(path) for pattern in patterns)

    frozen = {path: leaf for path, leaf in params.items() if path not in adapters and stays(path)}
    trainable = {path: leaf for path, leaf in params.items() if path not in frozen}
    if not trainable:
        raise ConfigError(
            f"freeze = {freeze} freezes all {len(params)} parameters; leave out a pattern so that something trains"
        )
    return trainable, frozen


def freeze_table(trainable: Params, frozen: Params) -> str:
    """Scalars trained and frozen in each top-level group, one line a group, for the log."""
    groups = dict.fromkeys(path.split("/", 1)[0] for path in (*trainable, *frozen))
    rows = [("parameters", "trained", "frozen")]
    for group in sorted(groups):
        rows.append((group, f"{count(_group(trainable, group)):,}", f"{count(_group(frozen, group)):,}"))
    rows.append(("all", f"{count(trainable):,}", f"{count(frozen):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {train:>{widths[1]}}  {still:>{widths[2]}}" for name, train, still in rows)


def _group(params: Params, group: str) -> Params:
    return {path: leaf for path, leaf in params.items() if path.split("/", 1)[0] == group}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"freeze: {pattern!r} is no regular expression: {error}") from None


def _nearest_paths(pattern: str, params: Params) -> str:
    """The path prefixes most like a pattern: what its writer may have meant."""
    prefixes: dict[str, None] = {}
    for path in params:
        parts = path.split("/")
        prefixes.update(dict.fromkeys("/".join(parts[:depth]) + "/" for depth in range(1, len(parts))))
        prefixes[path] = None
    near = difflib.get_close_matches(pattern, prefixes, n=3, cutoff=0.5)
    if near:
        return f"the nearest are {', '.join(map(repr, near))}"
    return f"there are {', '.join(sorted({repr(path.split('/')[0] + '/') for path in params}))}"
