"""Config of the stage `benchmark`: what cannot be meant is refused with its field."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import BenchmarkConfig
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shots": ()}, "shots is empty: give numbers of references"),
        ({"shots": (0, 0)}, "give each number once"),
        ({"shots": (0, -1)}, "0 or more"),
        ({"name": "manta", "shots": (0, 2)}, "names one reference at most"),
        ({"name": "manta", "knowledge": "k.json"}, "read with name = 'mmad' alone"),
        ({"stage": "sff"}, "'sff' is no training stage; did you mean 'sfe'"),
        ({"num_questions": -1}, "num_questions = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"folder": "../out"}, "it becomes a folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    assert BenchmarkConfig(shots=(4, 0)).shots == (4, 0)
    with pytest.raises(ConfigError, match=said):
        BenchmarkConfig(**fields)
