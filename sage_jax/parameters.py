"""Parameters as one flat dictionary from path to array: what tables, optimizers and checkpoints read."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

Params = dict[str, jax.Array]
Module = TypeVar("Module", bound=nnx.Module)


def split(model: Module) -> tuple[nnx.GraphDef[Module], Params]:
    """The structure of a module and its parameters by path, such as `decoder/blocks/mlp/up/kernel`."""
    graphdef, state = nnx.split(model)
    return graphdef, {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef[Module], params: dict[str, Any]) -> Module:
    """The module of a structure and its parameters; the inverse of `split`."""
    flat: dict[Any, nnx.Param[Any]] = {
        tuple(int(key) if key.isdigit() else key for key in path.split("/")): nnx.Param(leaf)
        for path, leaf in params.items()
    }
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def count(params: Params) -> int:
    """Number of scalars."""
    return sum(int(np.prod(leaf.shape)) for leaf in params.values())


def digest(params: Params) -> str:
    """SHA-256 of paths, shapes, dtypes and values: the key of whatever was computed from these weights."""
    sha = hashlib.sha256()
    for path in sorted(params):
        leaf = on_host(params[path])
        sha.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()


def on_host(leaf: jax.Array) -> np.ndarray:
    """A parameter with the parts of it that other processes hold; all of them have to ask."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
