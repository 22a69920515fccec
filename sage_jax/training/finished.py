"""The parameters of a finished training stage, and what is known of how they were made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from sage_jax.errors import UserError
from sage_jax.parameters import Params, digest
from sage_jax.process.checksums import FILE as CHECKSUMS
from sage_jax.process.checksums import damaged, open_json, write_checksums
from sage_jax.process.shortages import raise_if_lacking

FINAL: Final = "final"
"""Folder of the parameters."""

_SMALL: Final = 1 << 20
"""Bytes of a file that is read once more, for its checksum, whenever a stage is opened."""

_NO_DAMAGE: Final = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "Too many open files")
"""What TensorStore says where the files may be whole."""

DONE: Final = "DONE.json"
"""The file that says that they are whole: their hash, that of the weights before, and the config."""


class CheckpointError(UserError):
    """A checkpoint that does not fit this run; the message names it, what differs, and the way out."""


def is_finished(stage_dir: Path | str) -> bool:
    """Whether a stage has its final parameters, whole."""
    return (Path(stage_dir) / DONE).is_file()


def has_unsealed_final(stage_dir: Path | str) -> bool:
    """Whether a stage has final parameters that nothing says to be whole."""
    return (Path(stage_dir) / FINAL).is_dir() and not is_finished(stage_dir)


def final_config(stage_dir: Path | str) -> str:
    """The config, as JSON, that a finished stage was trained under."""
    return json.dumps(_done(stage_dir)["config"])


def final_shapes(stage_dir: Path | str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the parameters of a finished stage, by path.

    Raises:
      CheckpointError: The stage is not finished, or damaged.
    """
    _done(stage_dir)
    path = _indexed(stage_dir)
    with readable(path), ocp.StandardCheckpointer() as checkpointer:
        names = _stored(checkpointer, path)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in names.items()}


def final_weights(stage_dir: Path | str) -> str:
    """Hash of a finished stage's parameters; "" of one that was written without."""
    return _done(stage_dir).get("weights", "")


def final_start(stage_dir: Path | str) -> str:
    """Hash of the parameters that a finished stage started from; "" where there are none."""
    return _done(stage_dir).get("starts_from", "")


def load_final(stage_dir: Path | str, shardings: Mapping[str, Sharding] | None = None) -> Params:
    """All parameters of a finished stage, trained and frozen, by path.

    Args:
      stage_dir: Folder of the stage.
      shardings: Where each parameter goes; None = whole on every device.

    Raises:
      CheckpointError: The stage is not finished, its parameters are not those of `shardings`, or they are damaged: read
        from the disk, they must have the hash that they were written with.
    """
    expected = _done(stage_dir).get("weights", "")
    path = _indexed(stage_dir)
    with readable(path), ocp.StandardCheckpointer() as checkpointer:
        names = _stored(checkpointer, path)
        if shardings is None:
            everywhere = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), PartitionSpec())
            shardings = dict.fromkeys(names, everywhere)
        if shardings.keys() != names.keys():
            odd = sorted(shardings.keys() ^ names.keys())
            raise CheckpointError(
                f"{path}: its parameters are not this model's; in one but not the other: {', '.join(odd[:5])}. "
                "Use the model fields that the stage was trained with"
            )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name]) for name, leaf in names.items()
        }
        params = checkpointer.restore(path, abstract)
    # With several processes each would gather the whole model for it.
    if expected and jax.process_count() == 1 and digest(params) != expected:
        raise damaged_file(path, "its parameters are not those that were written")
    return params


def seal_index(final: Path) -> None:
    """Writes the checksums of the small files of parameters just written: the indexes, without which none is found."""
    files = (path for path in final.rglob("*") if path.is_file() and path.stat().st_size <= _SMALL)
    write_checksums(final, [str(path.relative_to(final)) for path in files if path.name != CHECKSUMS])


def _indexed(stage_dir: Path | str) -> Path:
    """The folder of a finished stage's parameters.

    Raises:
      CheckpointError: An index is damaged; Orbax's threads would tell that in tracebacks of their own.
    """
    path = Path(stage_dir).absolute() / FINAL
    if bad := damaged(path, listed=True):
        raise damaged_file(path / bad[0], "it is not as it was written")
    return path


def _done(stage_dir: Path | str) -> dict[str, Any]:
    """The marker of a finished stage."""
    path = Path(stage_dir) / DONE
    if not is_finished(stage_dir):
        raise CheckpointError(f"{stage_dir}: this stage is not finished; train it first (there is no {DONE})")
    try:
        about = open_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise_if_lacking(error, path)
        raise damaged_file(path, str(error)) from None
    if not isinstance(about.get("config"), dict):
        raise damaged_file(path, "it has no config")
    return about


def damaged_file(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: damaged: {why}. Bring the file back from a copy, or delete the folder {_to_delete(path)}: the stage "
        "then goes on from the checkpoint before it, or trains anew"
    )


def _to_delete(path: Path) -> Path:
    """The checkpoint that a file belongs to, or else its stage."""
    inside = (path, *path.parents)
    checkpoint = next((each for each in inside if each.parent.name == "checkpoints"), None)
    return checkpoint or next((each for each in path.parents if each.parent.name == "stages"), path.parent)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what Orbax raises of files that are damaged into one error that names them.

    Raises:
      CheckpointError: They cannot be read.
    """
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last: no room on the devices
        raise
    except Exception as error:  # Orbax raises errors of many kinds, bare ones too
        raise_if_lacking(error, path)
        if any(sign in str(error) for sign in _NO_DAMAGE):
            raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0][:300]}") from error
        raise damaged_file(path, (str(error).strip() or type(error).__name__).splitlines()[0][:300]) from error


def _stored(checkpointer: ocp.StandardCheckpointer, path: Path) -> dict[str, Any]:
    stored: Any = checkpointer.metadata(path).item_metadata
    return dict(stored.tree) if hasattr(stored, "tree") else dict(stored)
