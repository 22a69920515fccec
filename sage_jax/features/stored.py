"""ViT features of all images of a data set: computed once with frozen weights, kept on disk by what they depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.config import ConfigError, ModelConfig
from sage_jax.data.records import Record
from sage_jax.data.stream.vit_features import SUMS, StoredFeatures, TileTable, tile_sums, tile_table, tiles_from
from sage_jax.data.trees.encode import TileForm, feature_form
from sage_jax.generation.responder import Responder
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import compute_dtype
from sage_jax.process.checksums import read_npz
from sage_jax.process.files import locked, replace_file
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import StopRequest

_VERSION: Final = 1
_CHECKED_AT_ONCE: Final = 64
"""Tiles that one thread checks in a row."""


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
    if _agreed(int(jax.process_index() == 0 and _is_whole(path, table, form, run))):
        run.line(f"ViT features of {len(table.sources)} images known")
        return stored
    with _alone(kept):
        _compute(records, table, stored, responder, key.model, responder.rows(batch_size), run, mesh)
    if not _everywhere(path):
        raise ConfigError(f"{kept} is not there for every process: give a data.cache_dir that they share")
    return stored


def _is_whole(path: Path, table: TileTable, form: TileForm, run: RunLog) -> bool:
    """Whether a file has the features of all tiles, as they were written; else what is whole of it is gone on from."""
    if not path.exists():
        return False
    whole = _whole_tiles(path, path.with_suffix(SUMS), form)
    if whole == table.num_tiles and path.stat().st_size == whole * form.nbytes:
        return True
    run.line(f"{path} is damaged behind tile {whole} of {table.num_tiles}: ViT features are computed again from there")
    os.replace(path, path.with_suffix(".partial"))
    return False


def _whole_tiles(path: Path, sums: Path, form: TileForm) -> int:
    """Tiles of a file up to the first that does not have its checksum, or has none."""
    number = min(path.stat().st_size // form.nbytes, sums.stat().st_size // 4 if sums.exists() else 0)
    if not number:
        return 0
    expected = np.fromfile(sums, np.uint32, number)
    tiles = np.memmap(path, form.dtype, mode="r", shape=(number, *form.shape))
    parts = [slice(start, start + _CHECKED_AT_ONCE) for start in range(0, number, _CHECKED_AT_ONCE)]
    with ThreadPoolExecutor(_threads()) as pool:
        same = np.concatenate([*pool.map(lambda part: tile_sums(tiles[part]) == expected[part], parts)])
    return number if same.all() else int(np.argmin(same))


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
    sums = stored.path.with_suffix(SUMS)
    done = _agreed(_whole_batches(partial, sums, rows, form))
    needed = (table.num_tiles - done) * form.nbytes
    run.line(f"ViT features of {len(table.sources)} images: {needed:,} bytes to compute, in {kept}")
    _require_room(kept, needed)
    batches = _batches(tiles_from(records, table, done, model=model, num_threads=_threads()), rows)
    with (
        StopRequest(run.line, mesh, after="this batch") as stop,
        run.progress(table.num_tiles, done=done, unit="tile") as advance,
        _appended(partial) as file,
        _appended(sums) as sum_file,
    ):
        for tiles, count in batches:
            features = responder.vit_features(tiles)[:count]
            if file is not None and sum_file is not None:
                _append(file, features, kept, needed)
                _append(sum_file, tile_sums(features), kept, needed)
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
            return TileTable(*read_npz(path, "spans", "sources"))
        except (OSError, ValueError) as error:
            raise_if_lacking(error, path)
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


def _whole_batches(partial: Path, sums: Path, rows: int, form: TileForm) -> int:
    """Tiles in the file of a run that was stopped; what is behind its last whole batch is cut off."""
    if jax.process_index():
        return 0
    if not partial.exists():
        sums.unlink(missing_ok=True)
        return 0
    whole = _whole_tiles(partial, sums, form) // rows * rows
    os.truncate(partial, whole * form.nbytes)
    if sums.exists():
        os.truncate(sums, whole * 4)
    return whole


def _appended(path: Path) -> contextlib.AbstractContextManager[io.BufferedWriter | None]:
    """A file to append to, for the first process alone."""
    return path.open("ab") if jax.process_index() == 0 else contextlib.nullcontext()


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


def _append(file: io.BufferedWriter, values: np.ndarray, kept: Path, needed: int) -> None:
    try:
        file.write(np.ascontiguousarray(values).tobytes())
        file.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
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
