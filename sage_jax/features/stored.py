"""ViT features of all images of a data set: computed once with frozen weights, kept on disk by what they depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.axes import Float
from sage_jax.config import ConfigError, ModelConfig
from sage_jax.data.records import Record
from sage_jax.data.stream.vit_features import StoredFeatures, TileTable, tile_table, tiles_from
from sage_jax.data.trees.encode import TileForm, feature_form
from sage_jax.generation.responder import Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import compute_dtype
from sage_jax.process.files import locked, replace_file
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import StopRequest

_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class FeatureKey:
    """What stored features depend on.

    Attributes:
      vit_digest: Hash of the ViT's parameters.
      data_revision: Hash of the data set.
      model: Sizes of the ViT and its tiles, and the dtype.
    """

    vit_digest: str
    data_revision: str
    model: ModelConfig

    def digest(self) -> str:
        """Name of the folder that holds them."""
        model = self.model
        sizes = [dataclasses.asdict(model.vit), model.downsample, model.max_tiles, str(compute_dtype(model))]
        parts = [_VERSION, self.vit_digest, self.data_revision, *sizes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def stored_features(
    records: Sequence[Record],
    *,
    responder: Responder,
    key: FeatureKey,
    batch_size: int,
    folder: Path,
    run: RunLog,
    mesh: Mesh,
) -> StoredFeatures:
    """Features of all records' images, computed where they are not in `folder` yet.

    Each distinct image is computed once. Features are appended as they come: stopped or killed and called again, it
    goes on where it was.

    Args:
      batch_size: Tiles that the ViT runs on together; raised to what the mesh divides.
      mesh: Devices of all processes, which share the folder.

    Raises:
      ConfigError: The disk does not hold them, or the folder cannot be written; the message has the bytes.
      Interrupted: A signal has come; what was computed stays.
    """
    kept = folder / key.digest()
    form, path = feature_form(key.model, np.dtype(compute_dtype(key.model))), kept / "features.bin"
    table = _table(records, kept, key.model, run)
    stored = StoredFeatures(path, table.spans, form)
    if _agreed(int(_is_whole(path, table, form, run))):
        run.line(f"ViT features of {len(table.sources)} images known")
        return stored
    with _alone(kept):
        _compute(records, table, stored, responder, key.model, responder.rows(batch_size), run, mesh)
    if not _everywhere(path):
        raise ConfigError(f"{kept} is not there for every process: give a data.cache_dir that they share")
    return stored


def _is_whole(path: Path, table: TileTable, form: TileForm, run: RunLog) -> bool:
    """Whether a file has the features of all tiles; one of another size is deleted."""
    if not path.exists():
        return False
    size, expected = path.stat().st_size, table.num_tiles * form.nbytes
    if size != expected:
        run.line(f"{path} is damaged ({size:,} bytes, not {expected:,}): ViT features are computed again")
        path.unlink()
    return size == expected


def _compute(
    records: Sequence[Record],
    table: TileTable,
    stored: StoredFeatures,
    responder: Responder,
    model: ModelConfig,
    rows: int,
    run: RunLog,
    mesh: Mesh,
) -> None:
    """Appends what is missing to the file under way, and gives the whole file its name."""
    kept, form, partial = stored.path.parent, stored.form, stored.path.with_suffix(".partial")
    done = _agreed(_whole_batches(partial, rows, form))
    needed = (table.num_tiles - done) * form.nbytes
    run.line(f"ViT features of {len(table.sources)} images: {needed:,} bytes to compute, in {kept}")
    _require_room(kept, needed)
    batches = _batches(tiles_from(records, table, done, model=model, num_threads=_threads()), rows)
    with (
        StopRequest(run.line, mesh, after="this batch") as stop,
        run.progress(table.num_tiles, done=done, unit="tile") as advance,
        partial.open("ab") if jax.process_index() == 0 else contextlib.nullcontext() as file,
    ):
        for tiles, count in batches:
            features = responder.vit_features(tiles)[:count]
            if file is not None:
                _append(file, features, kept, needed)
            done += count
            advance(done)
            if stop.agreed() and done < table.num_tiles:
                raise Interrupted(f"stopped after the ViT features of {done} of {table.num_tiles} tiles")
    if jax.process_index() == 0:
        os.replace(partial, stored.path)


@contextlib.contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Holds the folder for this run: two that append to one file would spoil it."""
    with contextlib.ExitStack() as held:
        try:
            if jax.process_index() == 0:
                held.enter_context(locked(kept))
        except BlockingIOError:
            raise ConfigError(
                f"data.vit_features: another run computes the same features in {kept}; wait for it, or name another "
                "data.cache_dir"
            ) from None
        yield


def _table(records: Sequence[Record], kept: Path, model: ModelConfig, run: RunLog) -> TileTable:
    """The table of the records' tiles, read from the folder or made and written there."""
    path = kept / "tiles.npz"
    if path.exists():
        try:
            with np.load(path) as found:
                return TileTable(found["spans"], found["sources"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            run.line(f"{path} is damaged ({error}): tiles are counted again")
    with run.progress(len(records), unit="record") as advance:
        table = tile_table(records, model=model, advance=advance)
    if jax.process_index() == 0:
        buffer = io.BytesIO()
        np.savez(buffer, spans=table.spans, sources=table.sources)
        try:
            replace_file(path, buffer.getvalue())
        except OSError as error:
            raise ConfigError(f"data.cache_dir: {kept} cannot be written: {error.strerror or error}") from None
    return table


def _whole_batches(partial: Path, rows: int, form: TileForm) -> int:
    """Tiles in the file of a run that was stopped; what is behind its last whole batch is cut off."""
    if jax.process_index() or not partial.exists():
        return 0
    whole = partial.stat().st_size // (rows * form.nbytes)
    os.truncate(partial, whole * rows * form.nbytes)
    return whole * rows


def _batches(images: Iterator[np.ndarray], rows: int) -> Iterator[tuple[np.ndarray, int]]:
    """Tiles of images in batches of so many, and how many of them are real: all but those of the last."""
    waiting: list[np.ndarray] = []
    count = 0
    for tiles in images:
        waiting.append(tiles)
        count += len(tiles)
        while count >= rows:
            joined = np.concatenate(waiting)
            yield joined[:rows], rows
            waiting, count = [joined[rows:]], count - rows
    if count:
        joined = np.concatenate(waiting)
        yield np.pad(joined, ((0, rows - count), (0, 0), (0, 0), (0, 0))), count


def _require_room(kept: Path, needed: int) -> None:
    """Raises ConfigError where the disk has less room than that, in bytes."""
    free = shutil.disk_usage(kept).free if kept.exists() else needed
    if free < needed:
        raise _no_room(kept, needed, free)


def _no_room(kept: Path, needed: int, free: int) -> ConfigError:
    return ConfigError(
        f"data.vit_features: the ViT features take {needed:,} bytes more in {kept}, whose disk has {free:,} free: "
        "name another data.cache_dir, or set data.vit_features to 'none'"
    )


def _append(file: io.BufferedWriter, features: Float[np.ndarray, "A M E"], kept: Path, needed: int) -> None:
    try:
        file.write(np.ascontiguousarray(features).tobytes())
        file.flush()
    except OSError as error:
        free = shutil.disk_usage(kept).free
        raise _no_room(kept, needed, free) from error


def _threads() -> int:
    """Threads that decode and tile: the decoders let go of the interpreter lock."""
    return min(8, os.cpu_count() or 1)


def _agreed(number: int) -> int:
    """The first process's number, for all."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def _everywhere(path: Path) -> bool:
    """Whether all processes find a file, once the first one has written it."""
    if jax.process_count() == 1:
        return path.exists()
    multihost_utils.sync_global_devices("ViT features stored")
    return bool(np.all(multihost_utils.process_allgather(np.asarray([path.exists()]))))
