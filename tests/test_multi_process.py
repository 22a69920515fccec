"""Two processes train as one: the same records, loss, parameters and their hash; and they answer a benchmark as one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from sage_jax.config import (
    BenchmarkConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    FactsConfig,
    FusionConfig,
    MeshConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
)
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.trees.encode import TreeFormat, feature_form
from sage_jax.features.cached import CachedFeatures
from sage_jax.features.encoder import VitEncoder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, digest, merge, split
from sage_jax.sharding import MESH_AXES, make_mesh, param_shardings
from sage_jax.stages.stages import run_stages
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import load_final
from sage_jax.training.loop import Trainer
from sage_jax.training.objectives import PreferenceObjective
from tests.support.exported_case import checkpoint_folder
from tests.support.forked import ROOT, Forked
from tests.support.inspection_records import MODEL, TEXT, make_chat, make_records
from tests.support.question_sets import write_manta
from tests.support.tiny_run import PROGRAM, read_jsonl
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


def benchmark_config(folder: Path, run_dir: str) -> Config:
    """Questions of MANTA for tiny weights, which write the facts of each image first."""
    return Config(
        run_dir=str(folder / run_dir),
        stages="benchmark",
        data=DataConfig(cache_dir=str(folder / f"cache of {run_dir}"), facts="model"),
        facts=FactsConfig(max_tokens=4),
        text=TextConfig(max_fact_tokens=96, reference="prompt"),
        model=ModelConfig(
            weights=str(folder / "InternVL-tiny"),
            fusion=FusionConfig(num_heads=2, num_distinct=3),
            max_tiles=1,
            compute_dtype="float32",
        ),
        mesh=MeshConfig(data=-1),
        evaluate=EvaluateConfig(batch_size=8, max_new_tokens=3, bootstrap_samples=20),
        benchmark=BenchmarkConfig(name="manta", root=str(folder / "manta" / "JsonData"), shots=(0,)),
    )


def start(count: int, *args: str) -> list[Forked]:
    """This file as so many processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[__file__, str(count), str(process), str(port), *args] for process in range(count)]
    return [Forked(command, environment=os.environ | PROGRAM, cwd=ROOT, merged=True) for command in commands]


def test_two_processes_answer_a_benchmark_as_one(tmp_path: Path) -> None:
    checkpoint_folder(tmp_path / "InternVL-tiny")
    write_manta(tmp_path / "manta")
    for count in (1, 2):
        children = start(count, "benchmark", str(tmp_path))
        try:
            ends = [child.communicate(timeout=3 * SECONDS)[0] for child in children]
        finally:
            for child in children:
                child.kill()
        assert {child.returncode for child in children} == {0}, "\n".join(ends)
    one, two = (read_jsonl(tmp_path / name / "benchmarks" / "manta" / "answers_0_shot_base.jsonl") for name in "12")
    assert len(one) == len(two) == 24
    for here, there in zip(one, two, strict=True):
        np.testing.assert_allclose(here.pop("verdict_score"), there.pop("verdict_score"), atol=1e-4)
        assert here == there
    facts = [
        {
            row["image"]: row["facts"]
            for path in (tmp_path / f"cache of {name}" / "facts").iterdir()
            for row in read_jsonl(path)
        }
        for name in "12"
    ]
    assert facts[0] == facts[1] and len(facts[0]) == 3
    journal = read_jsonl(tmp_path / "2" / "benchmarks" / "manta" / "journal_0_shot_base.jsonl")
    assert len(journal) == 6, "one process writes"


def test_two_processes_end_with_the_parameters_of_one(tmp_path: Path) -> None:
    children = start(2, "train", str(tmp_path / "two"))
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
    count, process, port, task, folder = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2 if task == "train" else 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(process), initialization_timeout=SECONDS)
    if task == "benchmark":
        run_stages(benchmark_config(Path(folder), count))
        sys.exit()
    trained = train(Path(folder), make_mesh(MeshConfig(data=2, fsdp=2)), keep_features=True)
    # As evaluation reads them, on a mesh that leaves no process with all of a parameter.
    shardings = param_shardings(trained, make_mesh(MeshConfig(data=1, fsdp=4)))
    print(digest(load_final(Path(folder) / "edpo", shardings)))
