"""Two processes, each with ViT features of its own, train as one: the same records, loss, parameters and their hash."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from sage_jax.config import MeshConfig, PreferenceConfig, TrainConfig
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.trees.encode import TreeFormat, feature_form
from sage_jax.features.cached import CachedFeatures
from sage_jax.features.encoder import VitEncoder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, digest, merge, split
from sage_jax.sharding import MESH_AXES, make_mesh, param_shardings
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import load_final
from sage_jax.training.loop import Trainer
from sage_jax.training.objectives import PreferenceObjective
from tests.support.inspection_records import MODEL, TEXT, make_chat, make_records
from tests.support.tiny_run import QUICK_TO_COMPILE
from tests.support.tiny_sage import random_params

TRAIN = TrainConfig(
    steps=3,
    batch_size=4,
    warmup_steps=1,
    peak_learning_rate=1e-3,
    answers="ranked",
    # Few gradients, so that three compilations take seconds; test_sharding.py has those of every parameter.
    freeze=("vit/", "adapter/", "fusion/", "fact_encoder/", "decoder/embedding/", "decoder/blocks/"),
    log_every=1,
)
OBJECTIVE = PreferenceObjective(PreferenceConfig(beta=0.5, eta=0.2, sft_weight=0.5))
SECONDS = 100


def train(folder: Path, mesh: Mesh, *, keep_features: bool) -> Params:
    """A stage from fixed random weights, each process with its share of the same records.

    Args:
      keep_features: Each process computes ViT features of its images beside the steps; else the steps compute them.
    """
    records, chat = make_records(7), make_chat()
    placeholders = Placeholders(chat.image_id, chat.comparison_id)
    graphdef, shapes = split(nnx.eval_shape(lambda: Sage(MODEL, chat.vocab_size, placeholders, nnx.Rngs(0))))
    options = StreamOptions(seed=5, process_index=jax.process_index(), process_count=jax.process_count())
    loader = make_train_loader(records, TreeFormat(chat, MODEL, TEXT), TRAIN, options)
    params, kept = random_params(shapes), None
    if keep_features:
        placed = jax.device_put(params, param_shardings(params, mesh))  # no process has all of a parameter
        encoder, form = VitEncoder(graphdef, placed, mesh), feature_form(MODEL, np.dtype(np.float32))
        kept = CachedFeatures(encoder, form=form, tiles_at_once=encoder.at_once(2), capacity=10**6, by_record=True)
    with RunLog(folder, "edpo") as log, StageCheckpoints(folder / "edpo", keep_last=1) as checkpoints:
        trainer = Trainer(
            stage="edpo",
            log=log,
            train=TRAIN,
            objective=OBJECTIVE,
            loader=loader,
            mesh=mesh,
            checkpoints=checkpoints,
            config_json="{}",
            record_ids=lambda rows: [records[row].record_id for row in rows],
            encode=kept.begin if kept else None,
        )
        result = trainer.fit(merge(graphdef, params))
    if kept:  # of its own rows: two of each batch, each with a reference or none
        assert 4 <= kept.num_computed <= 2 * 2 * TRAIN.steps
    return result.params


def test_two_processes_end_with_the_parameters_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": QUICK_TO_COMPILE,
        "JAX_PLATFORMS": "cpu",
    }
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / "two"), str(process), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        # Meanwhile the same on four devices of this one process.
        mesh = jax.make_mesh((2, 2, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:4])
        one = train(tmp_path / "one", mesh, keep_features=False)
        ends = [child.communicate(timeout=SECONDS)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(ends)
    two = load_final(tmp_path / "two" / "edpo")
    assert two.keys() == one.keys()
    # The hash by which later work knows the model is that of the whole parameters, on each process.
    assert [end.split()[-1] for end in ends] == [digest(two)] * 2
    for path, leaf in one.items():
        np.testing.assert_allclose(np.asarray(two[path]), np.asarray(leaf), rtol=1e-5, atol=1e-6, err_msg=path)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[2]), initialization_timeout=SECONDS)
    trained = train(Path(sys.argv[1]), make_mesh(MeshConfig(data=2, fsdp=2)), keep_features=True)
    # As evaluation reads them, on a mesh that leaves no process with all of a parameter.
    shardings = param_shardings(trained, make_mesh(MeshConfig(data=1, fsdp=4)))
    print(digest(load_final(Path(sys.argv[1]) / "edpo", shardings)))
