"""Seconds that compiling a training step takes: traced, lowered, compiled, and again from the compilation cache.

python -m bench.compile_time --size small
"""

from __future__ import annotations

import functools
import tempfile
import time

import jax

from bench.measure import say, size_of
from bench.sizes import make_model
from bench.training import batches_of, stage, training_parser
from sage_jax.config import MeshConfig, PreferenceConfig
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.sharding import batch_sharding, make_mesh
from sage_jax.training.objectives import PreferenceObjective
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import init_state, jit_step


def main() -> None:
    """Measures and prints."""
    options = training_parser(__doc__, questions=5).parse_args()
    size = size_of(options)
    train = stage(options, answers="ranked", preference=PreferenceConfig())
    mesh = make_mesh(MeshConfig())
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        graphdef, params = make_model(size)
        trainable, frozen = partition(params, train.freeze)
        optimizer = make_optimizer(train)
        state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), trainable)
        batch = jax.device_put(batches_of(size, options, num_answers=4)[0], batch_sharding(mesh))
        seconds: dict[str, float] = {}
        for again in ("", "cached_"):
            step = jit_step(state, mesh, graphdef, optimizer, PreferenceObjective(train.preference), options.accumulate)
            start = time.perf_counter()
            lowered = step.lower(state, frozen, batch)
            middle = time.perf_counter()
            lowered.compile()
            seconds[f"{again}trace_seconds"] = round(middle - start, 2)
            seconds[f"{again}compile_seconds"] = round(time.perf_counter() - middle, 2)
            jax.clear_caches()
        jax.config.update("jax_compilation_cache_dir", None)
    say("compile_time", options, size, unroll=size.model.scan_unroll, **seconds)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
