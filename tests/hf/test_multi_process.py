"""Two processes import their parts of one checkpoint and export it again, together."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import jax

from sage_jax.config import MeshConfig
from sage_jax.hf.exporting import export_checkpoint
from sage_jax.hf.importing import import_params, open_checkpoint
from sage_jax.sharding import make_mesh, param_shardings
from tests.support.forked import ROOT, Forked
from tests.support.tiny_internvl import MODEL, save_internvl, shapes_of, stored_bytes, torch_internvl

SECONDS = 300


def import_and_export(source: Path, out: Path) -> None:
    """What each process does."""
    checkpoint = open_checkpoint(source, MODEL)
    shapes = shapes_of(checkpoint)
    shardings = param_shardings(shapes, make_mesh(MeshConfig(1, 2, 2)))
    params = import_params(checkpoint, shapes, shardings)
    assert not params["decoder/blocks/mlp/up/kernel"].is_fully_addressable
    values, model = checkpoint.config.values, checkpoint.model
    export_checkpoint(params, model, out, dtype="float32", base=values, max_shard_bytes=8_000)
    assert (out / "config.json").is_file()  # for the second process too: it returns when the first is done


def test_two_processes_export_what_they_imported_bit_for_bit(tmp_path: Path) -> None:
    source = save_internvl(torch_internvl("qwen2"), tmp_path / "source")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
        "JAX_PLATFORMS": "cpu",
    }
    children = [
        Forked(
            [__file__, str(source), str(tmp_path / "out"), str(process), str(port)],
            environment=environment,
            cwd=ROOT,
            merged=True,
        )
        for process in range(2)
    ]
    try:
        ends = [child.communicate(timeout=SECONDS)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(ends)
    assert stored_bytes(tmp_path / "out") == stored_bytes(source)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[4]}", 2, int(sys.argv[3]), initialization_timeout=SECONDS)
    import_and_export(Path(sys.argv[1]), Path(sys.argv[2]))
