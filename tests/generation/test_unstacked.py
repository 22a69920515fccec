"""Layers taken out of their stacks; that they answer as the stack does stands in test_generate.py."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from sage_jax.config import MeshConfig
from sage_jax.generation.decoding import prefill_and_decode
from sage_jax.generation.options import Decoding
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.parameters import Params, merge
from sage_jax.plan.hlo import computations_of
from sage_jax.sharding import MESH_AXES, make_mesh
from tests.support.tiny_sage import on_device, random_batch, random_params, structure


def test_one_cpu_takes_layers_apart_without_compiling_anything() -> None:
    graphdef, shapes = structure()
    alone = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    params = random_params(shapes)
    compiled: list[str] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        compiled.extend([event] * event.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(note)
    _, found = with_unstacked_layers(graphdef, jax.device_put(params, jax.devices()[0]), alone)
    assert not compiled
    _, expected = with_unstacked_layers(graphdef, params, make_mesh(MeshConfig(data=4, fsdp=1, tensor=2)))
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        assert leaf.devices() == {jax.devices()[0]}
        np.testing.assert_array_equal(leaf, expected[path])


def weights_made_in_a_decode_step(graphdef: Any, params: Params) -> int:
    """Arrays of the size of one of the decoder's kernels that each round of the decode loop makes anew."""
    batch = on_device(random_batch(3, rows=2))
    decoding = Decoding(max_new_tokens=4, end_id=2, verdict_ids=((10,), (12,)))

    def answers(params: Params) -> jax.Array:
        return prefill_and_decode(merge(graphdef, params), batch, jnp.zeros(2, jnp.int32), decoding)[0].token_ids

    computations, _ = computations_of(jax.jit(answers).lower(params).compile().as_text() or "")
    sizes = {tuple(sorted(leaf.shape[-2:])) for path, leaf in params.items() if re.match("decoder/.*kernel", path)}
    loops = [one["rest"] for each in computations.values() for one in each.values() if one["kind"] == "while"]
    bodies = [match[1] for rest in loops if (match := re.search(r"body=%?([\w.\-]+)", rest))]
    assert bodies
    count = 0
    for body in bodies:
        for one in computations[body].values():
            shape = re.search(r"\[([\d,]+)\]", one["type"])
            size = tuple(sorted(int(n) for n in shape[1].split(","))) if shape else ()
            count += size in sizes and one["kind"] not in ("parameter", "get-tuple-element", "bitcast")
    return count


def test_a_decode_step_copies_no_weights() -> None:
    """Out of stacks it copies each layer's five kernels, which shows that copies are counted."""
    graphdef, shapes = structure()
    alone = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    params = jax.device_put(random_params(shapes), jax.devices()[0])
    assert weights_made_in_a_decode_step(graphdef, params) == 2 * 5
    assert weights_made_in_a_decode_step(*with_unstacked_layers(graphdef, dict(params), alone)) == 0
