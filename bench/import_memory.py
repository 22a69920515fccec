"""Peak host memory and time of importing a checkpoint, beside the parameters and the file cache.

    python bench/import_memory.py --megabytes 2000 --devices 8

Writes a synthetic bfloat16 checkpoint in the original layout (InternViT and InternLM2, as wide as InternVL2-8B and as
many layers as fit), imports it and prints one line of JSON. On a CPU the parameters are host memory themselves, so
their bytes are taken off; on an accelerator they are not. Anonymous memory is counted, that of compiling included: the
mapped file is file cache, which the system takes back when it needs it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from sage_jax.config import DecoderConfig, FusionConfig, MeshConfig, ModelConfig, VitConfig
from sage_jax.hf.config_writer import config_json
from sage_jax.hf.importing import import_params, open_checkpoint, stored_shapes
from sage_jax.hf.layouts import PLAIN, param_shapes, plain_rows, tensors
from sage_jax.hf.safetensors_file import ShardWriter
from sage_jax.sharding import make_mesh, param_shardings

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def model_of(megabytes: int) -> tuple[ModelConfig, int]:
    """A model of about that many megabytes in bfloat16, and its vocabulary: 8B's layers, fewer of them."""
    vocab_size = min(92553, megabytes * 1_000_000 // 8 // (2 * 4096) // 8 * 8)  # an eighth each for the two tables
    vit = VitConfig(tile_px=448, patch_px=14, num_layers=1, embed_dim=1024, num_heads=16, mlp_dim=4096)
    fixed = 2 * (13e6 + 22e6 + 2 * vocab_size * 4096)
    num_layers = max(1, round((megabytes * 1e6 - fixed) / (2 * 218e6)))
    decoder = DecoderConfig(
        num_layers=num_layers, embed_dim=4096, num_heads=32, num_kv_heads=8, mlp_dim=14336, rope_theta=1e6
    )
    return ModelConfig(vit=vit, decoder=decoder, fusion=FusionConfig(num_heads=32)), vocab_size


def write_checkpoint(folder: Path, model: ModelConfig, vocab_size: int) -> int:
    """Writes it, one tensor in memory, and returns the bytes of its tensors."""
    base = {"llm_config": {"architectures": ["InternLM2ForCausalLM"]}}
    about = config_json(model, layout="internvl_chat", vocab_size=vocab_size, dtype="bfloat16", base=base)
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    shapes = {p: s for p, s in param_shapes(model, vocab_size).items() if p.startswith(PLAIN)}
    stored = stored_shapes(tensors(plain_rows("internvl_chat", "internlm2", model), shapes))
    block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32).astype(BFLOAT16)
    with ShardWriter(folder, list(stored.items()), BFLOAT16, max_shard_bytes=1_000_000_000) as writer:
        for key, shape in stored.items():
            writer.write(key, np.resize(block, math.prod(shape)).reshape(shape))
    return 2 * sum(map(math.prod, stored.values()))


class PeakMemory:
    """Most anonymous memory of this process while it runs, in bytes above what there was at the start."""

    def __enter__(self) -> PeakMemory:
        self._start = self.peak = _anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def above_start(self) -> int:
        return self.peak - self._start

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, _anonymous_bytes())


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the checkpoint")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices, on a CPU")
    parser.add_argument("--fsdp", type=int, default=-1)
    parser.add_argument("--tensor", type=int, default=1)
    arguments = parser.parse_args()
    count = f"--xla_force_host_platform_device_count={arguments.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    import jax  # after the flags, which it reads once

    model, vocab_size = model_of(arguments.megabytes)
    with tempfile.TemporaryDirectory() as name:
        size = write_checkpoint(Path(name), model, vocab_size)
        checkpoint = open_checkpoint(name, ModelConfig(fusion=model.fusion))
        shapes = {
            path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in param_shapes(model, vocab_size).items()
        }
        shardings = param_shardings(shapes, make_mesh(MeshConfig(1, arguments.fsdp, arguments.tensor)))
        started = time.perf_counter()
        with PeakMemory() as memory:
            params = jax.block_until_ready(import_params(checkpoint, shapes, shardings))
        seconds = time.perf_counter() - started
    on_host = sum(leaf.nbytes for leaf in params.values()) if jax.default_backend() == "cpu" else 0
    found = {
        "checkpoint_mb": round(size / 1e6),
        "largest_tensor_mb": round(max(2 * math.prod(t.shape) for t in checkpoint.stored.values()) / 1e6),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "mesh": {axis: int(n) for axis, n in next(iter(shardings.values())).mesh.shape.items()},
        "peak_host_mb_beside_parameters": round((memory.above_start - on_host) / 1e6),
        "parameters_on_host_mb": round(on_host / 1e6),
        "seconds": round(seconds, 2),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
