"""A training stage on a small module with a real loss, real checkpoints and real signals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from sage_jax.batch import TreeBatch
from sage_jax.config import TrainConfig
from sage_jax.journal.run_log import RunLog
from sage_jax.parameters import Params
from sage_jax.sharding import MESH_AXES
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.loop import FitResult, Trainer
from sage_jax.training.step import Metrics

TRAIN = TrainConfig(
    steps=12, batch_size=16, peak_learning_rate=0.02, warmup_steps=2, freeze=("vit/",), log_every=1, keep_last=2
)


LONG = dataclasses.replace(TRAIN, steps=14, checkpoint_every=1)


class PatchEmbed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.patch_embed = nnx.Linear(3, 8, use_bias=False, rngs=rngs)


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear_1 = nnx.Linear(8, 16, rngs=rngs)
        self.linear_2 = nnx.Linear(16, 4, rngs=rngs)


class ScorePredictor(nnx.Module):
    """Judge scores of an image's answers from its mean colour; paths are rows of the sharding table."""

    def __init__(self, rngs: nnx.Rngs):
        self.vit = PatchEmbed(rngs)
        self.adapter = Mlp(rngs)

    def __call__(self, batch: TreeBatch) -> jax.Array:
        colour = jnp.mean(batch.tiles.astype(jnp.float32) / 255.0, axis=(1, 2, 3))
        return self.adapter.linear_2(jnp.tanh(self.adapter.linear_1(self.vit.patch_embed(colour))))


@dataclasses.dataclass(frozen=True)
class SquaredError:
    """Mean squared error of the scores over the answers there are."""

    def normalizers(self, batch: TreeBatch) -> dict[str, jax.Array]:
        return {"answers": jnp.sum(batch.answer_mask)}

    def __call__(
        self, model: ScorePredictor, batch: TreeBatch, normalizers: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        errors = jnp.square(model(batch)[:, None] - batch.scores) * batch.answer_mask
        total, count = jnp.sum(errors), jnp.sum(batch.answer_mask)
        return total / normalizers["answers"], {"squared_error": (total, count)}


def make_batch(rng: np.random.Generator, first_row: int, rows: int) -> TreeBatch:
    tiles = rng.integers(0, 256, (rows, 1, 4, 4, 3), np.uint8)
    brightness = tiles.mean(axis=(1, 2, 3, 4), dtype=np.float64) / 255.0
    arrays = [field for field in dataclasses.fields(TreeBatch) if not field.metadata.get("static")]
    empty: dict[str, Any] = {field.name: np.zeros((rows, 1), np.int32) for field in arrays}
    return TreeBatch(
        **empty
        | {
            "tiles": tiles,
            "scores": (1.0 + 4.0 * brightness[:, None, None] * np.ones((1, 1, 4))).astype(np.float32),
            "answer_mask": rng.random((rows, 1, 4)) < 0.7,
            "record_index": np.arange(first_row, first_row + rows, dtype=np.int32),
        }
    )


class SeededLoader:
    """Batch i is drawn from seed i; `broken` ones hold a score that is not a number."""

    def __init__(self, *, rows: int = 16, broken: tuple[int, ...] = (), seconds: float = 0.0):
        self.rows, self.broken, self.seconds = rows, broken, seconds
        self.position = 0

    def __next__(self) -> TreeBatch:
        time.sleep(self.seconds)
        batch = make_batch(np.random.default_rng(self.position), self.position * self.rows, self.rows)
        if self.position in self.broken:
            batch.scores[0, 0, 0], batch.answer_mask[0, 0, 0] = np.nan, True
        self.position += 1
        return batch

    def get_state(self) -> bytes:
        return str(self.position).encode()

    def set_state(self, state: bytes) -> None:
        self.position = int(state)


class ShareLoader(SeededLoader):
    """One process's rows of the same batches; process 1 alone is asked to stop when it gives batch `stop_at`."""

    def __init__(self, process: int, num_processes: int, stop_at: int):
        super().__init__(broken=(2,))
        self.process, self.num_processes, self.stop_at = process, num_processes, stop_at

    def __next__(self) -> TreeBatch:
        if self.process == 1 and self.position == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        size = self.rows // self.num_processes
        rows = slice(self.process * size, (self.process + 1) * size)
        return jax.tree.map(lambda leaf: leaf[rows], super().__next__())


class SignallingLoader(SeededLoader):
    """Asks its own process to stop when it gives batch `at`."""

    def __init__(self, *, at: int, broken: tuple[int, ...] = ()):
        super().__init__(broken=broken)
        self.at = at

    def __next__(self) -> TreeBatch:
        if self.position == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__next__()


def names_of(record_index: np.ndarray) -> list[str]:
    return [f"board-{row}" for row in record_index]


def one_device() -> Mesh:
    return first_devices(1)


def first_devices(fsdp: int) -> Mesh:
    return jax.make_mesh((1, fsdp, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:fsdp])


def run_stage(
    folder: Path, train: TrainConfig = TRAIN, loader: SeededLoader | None = None, config: str = "{}", **options: Any
) -> FitResult:
    model = options.pop("model", None) or ScorePredictor(nnx.Rngs(0))
    with RunLog(folder, "sfe") as log, StageCheckpoints(folder / "sfe", keep_last=train.keep_last) as checkpoints:
        trainer = Trainer(
            stage="sfe",
            log=log,
            train=train,
            objective=SquaredError(),
            loader=loader or SeededLoader(rows=train.batch_size),
            mesh=options.pop("mesh", None) or one_device(),
            checkpoints=checkpoints,
            config_json=config,
            record_ids=names_of,
            **options,
        )
        return trainer.fit(model)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(left: Params, right: Params) -> None:
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(np.asarray(left[path]), np.asarray(right[path]), err_msg=path)
