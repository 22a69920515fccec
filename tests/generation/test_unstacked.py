"""Layers taken out of their stacks; that they answer as the stack does stands in test_generate.py."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType

from sage_jax.config import MeshConfig
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.sharding import MESH_AXES, make_mesh
from tests.support.tiny_sage import random_params, structure


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
