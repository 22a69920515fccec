"""Held-out loss while a stage trains: its own objective on images that no stage trains on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, TrainConfig
from sage_jax.data.drawing.draw import source_id
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import make_eval_batches
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge
from sage_jax.sharding import batch_sharding
from sage_jax.training.step import Objective

_MODES: Final = ("zero_shot", "one_shot")


def split_by_image(records: Sequence[Record], fraction: float) -> tuple[list[int], list[int]]:
    """Records to train on and records to validate on, each ascending: an image's records stay together, and its copies.

    An image validates where the hash of its id is among the first `fraction` of all hashes. So the choice depends on
    neither seed nor order, and a larger fraction keeps the images of a smaller one.

    Raises:
      ConfigError: One of the two is empty.
    """
    parts: tuple[list[int], list[int]] = ([], [])
    for index in range(len(records)):
        hashed = hashlib.sha256(source_id(records[index].image_id).encode("utf-8", "surrogateescape")).digest()
        parts[int.from_bytes(hashed[:8]) < fraction * 2**64].append(index)
    for name, part in zip(("train on", "validate on"), parts, strict=True):
        if not part:
            raise ConfigError(f"data.validation_fraction = {fraction} leaves no record of {len(records)} to {name}")
    return parts


class Validation:
    """A stage's own loss on fixed records, for `fit`; the same parameters get the same score to the bit.

    The loss is the expectation of what the stage trains on: of all records with their reference and all without, in the
    shares of `reference_drop_rate`, each a mean over the whole set as over one batch.

    Args:
      records: Those that validate.
      objective, train: Of the stage.
      graphdef: Structure of the model.
      form: The trees.
      attach: Completes a batch on the host, such as with reference log-probabilities.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        objective: Objective,
        train: TrainConfig,
        graphdef: nnx.GraphDef[Sage],
        form: TreeFormat,
        mesh: Mesh,
        attach: Callable[[TreeBatch], TreeBatch] | None = None,
    ) -> None:
        self._mesh, self._attach = mesh, attach
        self._shares: dict[str, float] = dict(
            zip(_MODES, (train.reference_drop_rate, 1.0 - train.reference_drop_rate), strict=True)
        )
        self._batches_of = functools.partial(
            make_eval_batches,
            records,
            form,
            dataclasses.replace(TreeUse.of(train), questions_per_image=0),
            batch_size=train.batch_size // train.accumulate,
        )
        whole = NamedSharding(mesh, PartitionSpec())

        def summand(params: Params, batch: TreeBatch, normalizers: dict[str, jax.Array]) -> jax.Array:
            return objective(merge(graphdef, params), batch, normalizers)[0]

        self._summand = jax.jit(summand, out_shardings=whole)
        self._count = jax.jit(objective.normalizers, out_shardings=whole)
        self._totals: dict[str, dict[str, np.ndarray]] = {}

    def __call__(self, params: Params) -> dict[str, float]:
        """`loss`, its parts `loss_zero_shot` and `loss_one_shot` where the stage has them, and `score` = -loss."""
        parts = {mode: self._loss(params, mode) for mode, share in self._shares.items() if share > 0}
        loss = math.fsum(self._shares[mode] * part for mode, part in parts.items())
        return {"loss": loss, **{f"loss_{mode}": part for mode, part in parts.items()}, "score": -loss}

    def _loss(self, params: Params, mode: str) -> float:
        with jax.set_mesh(self._mesh):
            if mode not in self._totals:  # counts of the data alone: once
                counts = [jax.device_get(self._count(batch)) for batch in self._batches(mode)]
                self._totals[mode] = {name: np.sum([count[name] for count in counts], axis=0) for name in counts[0]}
            totals: Any = self._totals[mode]
            return math.fsum(float(self._summand(params, batch, totals)) for batch in self._batches(mode))

    def _batches(self, mode: str) -> Iterator[TreeBatch]:
        """The records in batches on the devices; every process has all rows of each and gives its devices theirs."""
        sharding = batch_sharding(self._mesh)

        def put(rows: Any) -> jax.Array:
            rows = np.asarray(rows)
            return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

        for batch in self._batches_of(with_reference=mode == "one_shot"):
            yield jax.tree.map(put, batch if self._attach is None else self._attach(batch))
