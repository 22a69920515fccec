"""Inputs that are mutated: what a run stores to read again, each in a folder of files that belong together."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from sage_jax.config import DataConfig, MeshConfig, TextConfig
from sage_jax.data import store
from sage_jax.data.trees.encode import feature_form
from sage_jax.features.stored import FeatureKey, stored_features
from sage_jax.generation.responder import Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.parameters import digest
from sage_jax.sharding import make_mesh
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import load_final
from tests.support.inspection_records import make_records
from tests.support.tiny_sage import TINY


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file among others, with what reads them all.

    Attributes:
      name, path: As of a `Target`.
      read: Gives a value that can be compared; an error of the user's is a `UserError`.
    """

    name: str
    path: Path
    read: Callable[[Path], Any]


def stored_files(folder: Path) -> list[Stored]:
    """All kinds, their files in a folder."""
    return [
        *_features(folder / "features"),
        *_records(folder / "records"),
        *_parameters(folder / "stage"),
        _program(folder / "programs"),
    ]


def _beside(files: Mapping[Path, bytes], read: Callable[[], Any]) -> Callable[[Path], Any]:
    """What reads files of which one is mutated; the others are as they were, whatever was made of them before."""

    def restored(mutant: Path) -> Any:
        for path, content in files.items():
            if path != mutant:
                path.write_bytes(content)
        return read()

    return restored


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class _Means(Responder):
    """Gives tiles features that are their means, without a model."""

    def __init__(self) -> None:
        """Nothing is compiled."""

    def rows(self, batch_size: int) -> int:
        return batch_size

    def vit_features(self, tiles: np.ndarray) -> np.ndarray:
        shape = feature_form(TINY, np.dtype(np.float32)).shape
        means = tiles.mean(axis=(1, 2, 3), dtype=np.float32)
        return np.broadcast_to(means[:, None, None], (len(tiles), *shape)).copy()


def _features(folder: Path) -> list[Stored]:
    """Stored ViT features: the tiles, their checksums, and which tile is whose."""
    records, key = make_records(4), FeatureKey("weights", "data", TINY)
    (folder / "run").mkdir(parents=True)
    kept = folder / "kept" / key.digest()

    def read() -> Any:
        with RunLog(folder / "run", "sfe") as log:
            about = {"key": key, "batch_size": 2, "folder": folder / "kept", "run": log}
            found = stored_features(records, responder=_Means(), mesh=make_mesh(MeshConfig()), **about)
        return [[tile.tobytes() for tile in found.of(index)] for index in range(len(records))]

    read()
    files = {path: content for path, content in _contents(kept).items() if path.suffix in (".bin", ".crc32", ".npz")}
    return [Stored(f"stored features: {path.name}", path, _beside(files, read)) for path in files]


def _records(folder: Path) -> list[Stored]:
    """A stored data set's records."""
    data = DataConfig(num_train=2, num_test=1, image_px=32, cache_dir=str(folder / "cache"))
    prepared = store.prepare(data, TextConfig(), seed=0, run_dir=folder / "run")

    def read() -> Any:
        return [repr(record) for record in store.StoredRecords(prepared.path, "train")]

    files = _contents(prepared.path)
    train = next(path for path in files if "-train.array_record" in path.name)
    return [Stored("ArrayRecord", train, _beside(files, read))]


def _parameters(folder: Path) -> list[Stored]:
    """A finished stage's parameters: Orbax's index, and the largest file of arrays."""
    params = {f"decoder/{number}": jnp.arange(40.0) + number for number in range(3)}
    with StageCheckpoints(folder, keep_last=1) as checkpoints:
        checkpoints.save_final(params, config_json="{}")
    files = _contents(folder / "final")
    largest = max(files, key=lambda path: len(files[path]) * (path.parent.name == "d"))
    read = _beside(files, lambda: digest(load_final(folder)))
    return [Stored(f"parameters: {what}", path, read) for what, path in _named(folder / "final", largest)]


def _named(final: Path, largest: Path) -> list[tuple[str, Path]]:
    return [("index", final / "_METADATA"), ("manifest", final / "manifest.ocdbt"), ("arrays", largest)]


def _program(folder: Path) -> Stored:
    """A compiled program."""

    def read() -> float:
        before = jax.config.values["jax_compilation_cache_dir"]
        names = ("jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")
        settings = {name: jax.config.values[name] for name in names}
        try:
            jax.config.update("jax_compilation_cache_dir", str(folder))
            for name in names:
                jax.config.update(name, -1)
            compilation_cache.reset_cache()
            jax.clear_caches()
            with warnings.catch_warnings(action="ignore"):  # JAX tells that it compiles again
                return float(jax.jit(lambda x: jnp.sin(x) @ x.T)(np.ones((3, 5), np.float32))[0, 0])
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            for name, value in settings.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()

    read()
    files = _contents(folder)
    return Stored("compiled program", max(files, key=lambda path: len(files[path])), _beside(files, read))
