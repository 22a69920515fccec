"""The training step and loop, on a small module with a real loss, real checkpoints and real signals."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh

from sage_jax.batch import TreeBatch
from sage_jax.config import ConfigError, MeshConfig, TrainConfig
from sage_jax.journal.run_log import RunLog, TrainingDiverged
from sage_jax.parameters import Params, merge, split
from sage_jax.sharding import MESH_AXES, make_mesh
from sage_jax.training.checkpoint import CheckpointError, StageCheckpoints, is_finished, load_final
from sage_jax.training.loop import FitResult, Trainer
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import Metrics, init_state, train_step

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


ARRAYS = [field for field in dataclasses.fields(TreeBatch) if not field.metadata.get("static")]


def make_batch(rng: np.random.Generator, first_row: int, rows: int) -> TreeBatch:
    tiles = rng.integers(0, 256, (rows, 1, 4, 4, 3), np.uint8)
    brightness = tiles.mean(axis=(1, 2, 3, 4), dtype=np.float64) / 255.0
    empty: dict[str, Any] = {field.name: np.zeros((rows, 1), np.int32) for field in ARRAYS}
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


def one_step(train: TrainConfig, batch: TreeBatch, accumulate: int = 1, steps: int = 1) -> tuple[Any, Metrics]:
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    trainable, frozen = partition(params, train.freeze)
    optimizer = make_optimizer(train)
    state, metrics = init_state(trainable, optimizer=optimizer), {}
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=optimizer, objective=SquaredError(), accumulate=accumulate
    )
    for _ in range(steps):
        state, metrics = jax.jit(step)(state, frozen, batch)
    return state, metrics


def assert_same(left: Params, right: Params) -> None:
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(np.asarray(left[path]), np.asarray(right[path]), err_msg=path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run_stage(tmp_path_factory.mktemp("whole"), LONG)


def started_child(folder: Path, rows: int) -> subprocess.Popen[str]:
    """A process that trains the same stage, once it has logged so many steps."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "metrics.jsonl"
    while child.poll() is None and (not log.exists() or log.read_text().count("\n") < rows):
        time.sleep(0.01)
    assert child.poll() is None, child.communicate()
    return child


def test_killed_at_a_random_moment_and_restarted_ends_bitwise_equal(tmp_path: Path, uninterrupted: FitResult):
    moment = np.random.default_rng().uniform(0.0, 0.4)
    child = started_child(tmp_path, rows=4)
    time.sleep(moment)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    resumed = run_stage(tmp_path, LONG)
    assert not resumed.interrupted
    assert "resumed from step" in (tmp_path / "log.txt").read_text(), f"killed {moment} s after step 4"
    assert_same(resumed.params, uninterrupted.params)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, LONG.steps + 1))


def test_sigterm_saves_exits_0_and_resumes_bitwise(tmp_path: Path, uninterrupted: FitResult):
    child = started_child(tmp_path, rows=2)
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    stopped = json.loads(out)
    assert stopped["interrupted"] and 2 <= stopped["steps"] < LONG.steps
    assert not is_finished(tmp_path / "sfe")
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, stopped["steps"] + 1))
    resumed = run_stage(tmp_path, LONG)
    assert f"resumed from step {stopped['steps']}" in (tmp_path / "log.txt").read_text()
    assert_same(resumed.params, uninterrupted.params)


def test_what_is_computed_beside_the_steps_is_begun_a_batch_early_and_resumes_bitwise(
    tmp_path: Path, uninterrupted: FitResult
):
    events: list[str] = []

    def encode(batch: TreeBatch) -> Callable[[], TreeBatch]:
        number = int(batch.record_index[0]) // LONG.batch_size
        events.append(f"begun {number}")

        def given() -> TreeBatch:
            events.append(f"given {number}")
            return batch

        return given

    stopped = run_stage(tmp_path, LONG, SignallingLoader(at=6), encode=encode)
    assert events[:5] == ["begun 0", "begun 1", "given 0", "begun 2", "given 1"]
    assert stopped.interrupted and stopped.steps < 6  # the loader was ahead
    events.clear()
    resumed = run_stage(tmp_path, LONG, encode=encode)
    assert_same(resumed.params, uninterrupted.params)
    expected = range(stopped.steps, LONG.steps)
    assert [event for event in events if "begun" in event] == [f"begun {number}" for number in expected]  # none beyond


def test_two_processes_train_as_one_and_stop_together(tmp_path: Path):
    one = run_stage(tmp_path / "one", loader=ShareLoader(0, 1, stop_at=-1), mesh=first_devices(2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / "two"), str(process), str(port)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    ends = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    first_calls, second_calls = zip(*(map(json.loads, out.splitlines()[-2:]) for out, _ in ends), strict=True)
    assert first_calls[0] == first_calls[1] and first_calls[0]["interrupted"]
    assert 5 <= first_calls[0]["steps"] < TRAIN.steps
    assert second_calls == ({"interrupted": False, "steps": TRAIN.steps},) * 2
    two = load_final(tmp_path / "two" / "sfe")
    for path, leaf in one.params.items():
        np.testing.assert_allclose(np.asarray(two[path]), np.asarray(leaf), atol=1e-6, err_msg=path)
    assert [row["step"] for row in rows_of(tmp_path / "two")] == list(range(1, TRAIN.steps + 1))
    # process 0 names the rows of both
    assert "board-32, " in (tmp_path / "two" / "log.txt").read_text()
    assert "board-47\n" in (tmp_path / "two" / "log.txt").read_text()


def test_the_wait_for_a_slow_stream_is_told_in_every_row_and_of_the_stage(tmp_path: Path):
    result = run_stage(tmp_path, loader=SeededLoader(seconds=0.1))
    assert result.counts["compilations"] == 1  # all batches have one shape
    assert 0 < result.counts["compile_seconds"] < 60
    assert result.shares["input_wait"] > 0.5  # a step takes a few milliseconds
    assert result.shares["padding"] == 1.0  # the trees of these batches have no token
    rows = rows_of(tmp_path)
    assert all(0.0 <= row["input_wait"] <= 1.0 and row["padding"] == 1.0 for row in rows)
    assert np.mean([row["input_wait"] for row in rows[2:]]) > 0.5


def test_micro_batches_add_up_to_the_whole_batch():
    batch = make_batch(np.random.default_rng(1), 0, 16)
    whole, whole_metrics = one_step(TRAIN, batch, accumulate=1)
    for accumulate in (2, 16):
        cut, metrics = one_step(TRAIN, batch, accumulate=accumulate)
        for path in whole.trainable:
            np.testing.assert_allclose(cut.trainable[path], whole.trainable[path], atol=2e-6, err_msg=path)
        for name, (total, count) in whole_metrics.items():
            np.testing.assert_allclose(metrics[name][0], total, rtol=1e-5, err_msg=name)
            assert float(metrics[name][1]) == float(count)


def test_micro_batches_of_a_batch_that_shows_no_reference_add_up_too():
    batch = make_batch(np.random.default_rng(1), 0, 16)
    no_tiles = {"reference_tiles": np.zeros((16, 0, 4, 4, 3), np.uint8), "reference_tile_mask": np.zeros((16, 0), bool)}
    bare = dataclasses.replace(batch, **no_tiles)
    whole, cut = one_step(TRAIN, batch, accumulate=1)[0], one_step(TRAIN, bare, accumulate=4)[0]
    for path in whole.trainable:
        np.testing.assert_allclose(cut.trainable[path], whole.trainable[path], atol=2e-6, err_msg=path)


def test_gradient_norm_and_loss_are_those_of_the_formula():
    batch = make_batch(np.random.default_rng(2), 0, 16)
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))

    def loss_of(trainable: Params) -> jax.Array:
        model = merge(graphdef, params | trainable)
        return jnp.mean(jnp.square(model(batch)[:, None] - batch.scores), where=batch.answer_mask)

    trainable, _ = partition(params, TRAIN.freeze)
    loss, gradient = jax.value_and_grad(loss_of)(trainable)
    _, metrics = one_step(TRAIN, batch, accumulate=4)
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"][0], optax.tree.norm(gradient), rtol=1e-5)


def test_a_step_that_is_not_finite_moves_only_step_and_counters():
    batch = make_batch(np.random.default_rng(3), 0, 16)
    before, _ = one_step(TRAIN, batch, steps=2)
    batch = make_batch(np.random.default_rng(4), 0, 16)
    batch.scores[5, 0, 1], batch.answer_mask[5, 0, 1] = np.inf, True
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    _, frozen = partition(params, TRAIN.freeze)
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=make_optimizer(TRAIN), objective=SquaredError(), accumulate=2
    )
    after, metrics = jax.jit(step)(before, frozen, batch)
    assert_same(after.trainable, before.trainable)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (int(after.step), int(after.num_skipped), int(after.num_skipped_in_row)) == (3, 1, 1)
    assert float(metrics["skipped"][0]) == 1.0


def test_skipped_steps_are_logged_with_their_records_and_training_goes_on(tmp_path: Path):
    result = run_stage(tmp_path, loader=SeededLoader(broken=(3,)))
    assert all(np.isfinite(leaf).all() for leaf in result.params.values())
    (line,) = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "skipped" in line]
    assert "step 4" in line
    assert [name for name in line.split("records ")[1].split(", ")] == [f"board-{row}" for row in range(48, 64)]
    assert [row["skipped"] for row in rows_of(tmp_path)] == [0.0] * 3 + [1.0] + [0.0] * 8
    assert rows_of(tmp_path)[3]["loss"] is None


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path: Path):
    # nine, a finite one, then ten
    loader = SeededLoader(broken=(*range(9), *range(10, 20)))
    with pytest.raises(TrainingDiverged) as stopped:
        run_stage(tmp_path, dataclasses.replace(TRAIN, steps=30), loader)
    message = str(stopped.value)
    assert "board-160" in message and "board-319" in message
    assert "board-0," not in message and "board-159" not in message


def test_skips_in_a_row_are_counted_across_a_resume(tmp_path: Path):
    train = dataclasses.replace(TRAIN, steps=30)
    broken = tuple(range(2, 30))
    with pytest.raises(TrainingDiverged) as whole:
        run_stage(tmp_path / "whole", train, SeededLoader(broken=broken))
    assert run_stage(tmp_path / "cut", train, SignallingLoader(at=6, broken=broken)).interrupted
    with pytest.raises(TrainingDiverged) as cut:
        run_stage(tmp_path / "cut", train, SeededLoader(broken=broken))
    assert str(whole.value).splitlines()[-1].strip().startswith("step 12: ")
    assert str(cut.value).splitlines()[-1] == str(whole.value).splitlines()[-1]


def test_a_donated_first_state_leaves_the_parameters_it_was_made_of():
    batch = make_batch(np.random.default_rng(5), 0, 16)
    graphdef, params = split(ScorePredictor(nnx.Rngs(0)))
    trainable, frozen = partition(params, TRAIN.freeze)
    optimizer = make_optimizer(TRAIN)
    step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, objective=SquaredError(), accumulate=1)
    jax.jit(step, donate_argnums=0)(init_state(trainable, optimizer=optimizer), frozen, batch)
    assert_same(params, split(ScorePredictor(nnx.Rngs(0)))[1])


def test_every_mesh_trains_the_same(tmp_path: Path):
    train = dataclasses.replace(TRAIN, accumulate=2)
    plain = run_stage(tmp_path / "one", train)
    cut = run_stage(tmp_path / "cut", train, mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert not cut.params["adapter/linear_1/kernel"].is_fully_replicated
    for path in plain.params:
        np.testing.assert_allclose(np.asarray(cut.params[path]), np.asarray(plain.params[path]), atol=1e-5)


def test_a_stage_ends_with_all_parameters_and_leaves_the_model_it_was_given(tmp_path: Path):
    model = ScorePredictor(nnx.Rngs(0))
    _, before = split(ScorePredictor(nnx.Rngs(0)))
    result = run_stage(tmp_path, model=model)
    assert_same(split(model)[1], before)
    assert_same(load_final(tmp_path / "sfe"), result.params)
    assert_same({"k": result.params["vit/patch_embed/kernel"]}, {"k": before["vit/patch_embed/kernel"]})
    assert not np.allclose(result.params["adapter/linear_1/kernel"], before["adapter/linear_1/kernel"])


def test_a_finished_stage_trains_on_when_it_gets_more_steps_and_the_log_says_what_changed(tmp_path: Path):
    run_stage(tmp_path, config=json.dumps({"sfe": {"steps": 12, "batch_size": 16}}))
    result = run_stage(
        tmp_path, dataclasses.replace(TRAIN, steps=14), config=json.dumps({"sfe": {"steps": 14, "batch_size": 16}})
    )
    assert result.steps == 14
    log = (tmp_path / "log.txt").read_text()
    assert "sfe.steps: 12 -> 14" in log and "batch_size" not in log


def test_a_resume_that_trains_other_parameters_is_refused_by_name(tmp_path: Path):
    run_stage(tmp_path)
    with pytest.raises(CheckpointError, match="adapter/linear_2/bias"):
        run_stage(tmp_path, dataclasses.replace(TRAIN, freeze=("vit/", "adapter/linear_2/bias")))


def test_the_best_scored_checkpoint_is_kept(tmp_path: Path):
    scores = iter([1.0, 3.0, 2.0])
    train = dataclasses.replace(TRAIN, steps=6, eval_every=2, keep_last=1)
    run_stage(tmp_path, train, evaluate=lambda params: {"score": next(scores), "arrays": float(len(params))})
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (4, 6)
    evaluated = [row for row in rows_of(tmp_path) if "eval/score" in row]
    assert [(row["step"], row["eval/score"], row["eval/arrays"]) for row in evaluated] == [
        (2, 1.0, 5.0),
        (4, 3.0, 5.0),
        (6, 2.0, 5.0),
    ]


def test_attached_values_reach_the_loss(tmp_path: Path):
    def attach(batch: TreeBatch) -> TreeBatch:
        return dataclasses.replace(batch, scores=batch.scores + np.float32(100.0))

    run_stage(tmp_path, dataclasses.replace(TRAIN, steps=2), attach=attach)
    assert rows_of(tmp_path)[0]["loss"] > 90.0**2


def test_a_batch_that_the_mesh_cannot_share_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="12 rows .* 8 devices .* multiple of 8"):
        run_stage(tmp_path, dataclasses.replace(TRAIN, batch_size=12), mesh=make_mesh(MeshConfig()))


def test_data_that_ends_early_says_so(tmp_path: Path):
    class Finite(SeededLoader):
        def __next__(self) -> TreeBatch:
            if self.position == 5:
                raise StopIteration
            return super().__next__()

    with pytest.raises(RuntimeError, match="ended 7 batches before the last step"):
        run_stage(tmp_path, loader=Finite())


def stage_to_stop(folder: Path) -> None:
    """Trains slowly, so that there is a moment to stop it in."""
    report(run_stage(folder, LONG, SeededLoader(seconds=0.05)))


def process_of_two(folder: Path, process: int, port: int) -> None:
    """Trains until process 1 is asked to stop, then to the end."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    for stop_at in (5, -1):
        report(run_stage(folder, loader=ShareLoader(process, 2, stop_at), mesh=make_mesh(MeshConfig(data=1, fsdp=2))))


def report(result: FitResult) -> None:
    print(json.dumps({"interrupted": result.interrupted, "steps": result.steps}))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        stage_to_stop(Path(sys.argv[1]))
    else:
        process_of_two(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
