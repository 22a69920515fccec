"""Weights from a checkpoint folder to the devices: everything is checked first, then tensors go one by one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sage_jax.config import ModelConfig
from sage_jax.hf.arrangements import Shape
from sage_jax.hf.config import CheckpointConfig, read_checkpoint_config
from sage_jax.hf.faults import WeightsError, raise_any
from sage_jax.hf.layouts import (
    STEM,
    Row,
    Tensor,
    embedding_key,
    is_plain,
    output_key,
    own_rows,
    param_shapes,
    plain_rows,
    spelled,
    tensors,
)
from sage_jax.hf.safetensors_file import READABLE, StoredTensor, open_file, open_folder
from sage_jax.hf.unsupported import quantised_tensors
from sage_jax.parameters import Params
from sage_jax.process.checksums import damaged

OWN_FILE: Final = "sage_fusion.safetensors"
"""File of SAGE's own parameters, beside the plain model."""
CHECKSUMS: Final = "sage_checksums.json"
"""List of an export's checksums; other tools have lists of other forms under the plain name."""

_VOCAB_ROWS: Final = re.compile(r"(decoder|fact_encoder|fact_encoder/decoder)/(embedding/embedding|output/kernel)")
_MEAN_ROWS: Final = 4096
_SAMPLE: Final = 4096
"""Bytes of each end of a tensor that tell it from others."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was checked and can be imported.

    Attributes:
      config: What its config.json says.
      model: The model config with its sizes.
      stored: Its tensors by key, as the layout's table spells them.
      own: Tensors of SAGE's own parameters by key; empty where it is a base InternVL.
    """

    config: CheckpointConfig
    model: ModelConfig
    stored: Mapping[str, StoredTensor]
    own: Mapping[str, StoredTensor]

    @property
    def has_fusion(self) -> bool:
        return bool(self.own)

    @property
    def has_fact_encoder(self) -> bool:
        return any(key.startswith("fact_encoder.") for key in self.own)

    def rows(self) -> list[Row]:
        """The rows of what it holds."""
        own = [path for path in param_shapes(self.model, self.config.vocab_size) if path.startswith(self._held_own())]
        return [*plain_rows(self.config.layout, self.config.text_model, self.model), *own_rows(own)]

    def fingerprint(self) -> str:
        """Hash of the tensors' names, kinds, and ends: what tells these weights from others, read in no time."""
        sha = hashlib.sha256()
        for key, tensor in sorted({**self.stored, **self.own}.items()):
            sha.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
            values = tensor.read().reshape(-1).view(np.uint8)
            sha.update(values[:_SAMPLE].tobytes() + values[-_SAMPLE:].tobytes())
        return sha.hexdigest()

    def holds(self, path: str) -> bool:
        """Whether a parameter of ours is in it."""
        return is_plain(path) or path.startswith(self._held_own())

    def _held_own(self) -> tuple[str, ...]:
        return _held(self.own)


def open_checkpoint(folder: Path | str, model: ModelConfig) -> Checkpoint:
    """Checks a checkpoint folder: config, files, keys, shapes and dtypes. No device is touched.

    Headers alone are read, but of an export of ours every file, which has a checksum.

    Args:
      folder: Holds config.json and safetensors files, and `sage_fusion.safetensors` where it was exported from here.
      model: What the checkpoint does not say: fusion, tiles, dtypes. Its sizes must be defaults or the checkpoint's.

    Raises:
      WeightsError: With every fault of the files in one message.
      ConfigError: A field of `model` contradicts the checkpoint.
    """
    folder = Path(folder).expanduser()
    if bad := damaged(folder, file=CHECKSUMS):
        raise WeightsError(
            f"{folder / bad[0]}: damaged, or changed by hand: it is not as it was exported. Bring it back from a copy, "
            f"or export anew; to read the folder as it stands, delete {folder / CHECKSUMS}"
        )
    config = read_checkpoint_config(folder)
    opened = open_folder(folder)
    if not opened.named:  # nothing could be read, so that every tensor would be missing
        raise_any(folder, opened.faults)
    dtypes = {key: tensor.dtype for key, tensor in opened.tensors.items()}
    if quantised := quantised_tensors(dtypes, opened.named, folder):
        raise WeightsError(f"{folder}: {quantised}")
    faults = list(opened.faults)
    stored: dict[str, StoredTensor] = {}
    for key, tensor in opened.tensors.items():
        ours = spelled(key, config.layout)
        if ours in stored:
            faults.append(f"tensor {key} is there twice, in two spellings")
        stored[ours] = tensor
    if config.decoder.tie_embeddings:
        config = _without_copied_output(config, stored)
    full = config.applied_to(model)
    shapes = param_shapes(full, config.vocab_size)
    rows = plain_rows(config.layout, config.text_model, full)
    plain = {path: shape for path, shape in shapes.items() if is_plain(path)}
    named = {spelled(key, config.layout) for key in opened.named}
    faults += _key_faults(stored, named, stored_shapes(tensors(rows, plain)))
    own: dict[str, StoredTensor] = {}
    if (folder / OWN_FILE).exists():
        own, own_faults = open_file(folder / OWN_FILE)
        wanted = {path: shape for path, shape in shapes.items() if path.startswith(_held(own) or ("fusion/",))}
        expected = stored_shapes(tensors(own_rows(wanted), wanted))
        faults += own_faults or [f"{OWN_FILE}: {fault}" for fault in _key_faults(own, set(own), expected)]
    raise_any(folder, faults)
    return Checkpoint(config, full, stored, own)


def _held(own: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """Beginnings of the paths of SAGE's own parameters that tensors are of; of the fusion all, or none."""
    optional = ("fact_encoder/", STEM)
    there = (path for path in optional if any(key.startswith(path.replace("/", ".")) for key in own))
    return ("fusion/", *there) if own else ()


def stored_shapes(wanted: list[Tensor]) -> dict[str, Shape]:
    """Shape of every key under which tensors are stored."""
    return {key: shape for tensor in wanted for key, shape in tensor.stored_shapes().items()}


def import_params(
    checkpoint: Checkpoint,
    shapes: Mapping[str, Any],
    shardings: Mapping[str, NamedSharding],
    keep: Callable[[str, jax.Array], Params] | None = None,
) -> Params:
    """The parameters that a checkpoint holds, each on its sharding, read one tensor after the other.

    A layer goes from the mapped file to its slice of the stacked parameter before the next one is read: beside the
    parameters, host and devices hold one tensor at a time, in the file's dtype, and a device only its part of it.

    Rows that the embedding (and the output layer) has beyond the checkpoint's are the mean of the checkpoint's: new
    tokens, which leave the logits of the others as they are.

    Args:
      shapes: Every parameter of the model by path, arrays or `jax.ShapeDtypeStruct`; those that the checkpoint does not
        hold (`Checkpoint.holds`) are left out of the result.
      shardings: Where they go.
      keep: What is kept of a parameter, by path, asked for before the next one is read; None = the parameter itself.

    Raises:
      WeightsError: The model has fewer tokens than the checkpoint, or a weight is not finite.
    """
    wanted = {path: leaf for path, leaf in shapes.items() if checkpoint.holds(path)}
    num_tokens = wanted["decoder/embedding/embedding"].shape[0]
    if num_tokens < checkpoint.config.vocab_size:
        raise WeightsError(
            f"the checkpoint has {checkpoint.config.vocab_size} tokens, the model {num_tokens}: give it as many or more"
        )
    by_key = {**checkpoint.stored, **checkpoint.own}
    params: Params = {}
    for tensor in tensors(checkpoint.rows(), {path: leaf.shape for path, leaf in wanted.items()}):
        row, sharding = tensor.row, shardings[tensor.row.path]
        parts = [by_key[key] for key in tensor.keys]
        values = _on_devices(tensor, parts, _raw_sharding(tensor, sharding))
        if not _all_finite(values):
            raise WeightsError(
                f"{parts[0].file}: tensor {' and '.join(tensor.keys)} holds values that are not finite (NaN or "
                "infinity): the checkpoint is damaged, or its training diverged; download it again, or name another one"
            )
        if row.is_stacked and row.path not in params:
            leaf = wanted[row.path]
            params[row.path] = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
        if tensor.layer is None:
            dtype = wanted[row.path].dtype
            written = _whole(values, transposed=row.is_transposed, dtype=dtype, sharding=sharding)
        else:
            layer = np.int32(tensor.layer)
            written = _layer(params[row.path], values, layer, transposed=row.is_transposed, sharding=sharding)
        params[row.path] = written.block_until_ready()  # else tensors would wait in memory for their turn
        if keep and tensor.layer in (None, written.shape[0] - 1):
            params.update(keep(row.path, params.pop(row.path)))
    return params


def _without_copied_output(config: CheckpointConfig, stored: dict[str, StoredTensor]) -> CheckpointConfig:
    """Takes an output layer out that only repeats the embedding; one that differs is untied, as transformers has it."""
    output, embedding = (stored.get(key(config.text_model)) for key in (output_key, embedding_key))
    if output is None or embedding is None:
        return config
    same_kind = (output.dtype, output.shape) == (embedding.dtype, embedding.shape) and output.dtype in READABLE
    whole = all(tensor.file.stat().st_size >= tensor.offset + tensor.num_bytes for tensor in (output, embedding))
    if same_kind and whole and _same_bytes(output, embedding):
        del stored[output_key(config.text_model)]
        return config
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tie_embeddings=False))


def _same_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    first, second = (tensor.read().reshape(-1).view(np.uint8) for tensor in (a, b))
    step = 1 << 24
    return all(np.array_equal(first[i : i + step], second[i : i + step]) for i in range(0, len(first), step))


def _key_faults(stored: Mapping[str, StoredTensor], named: set[str], expected: Mapping[str, Shape]) -> list[str]:
    """What is wrong with the keys of a checkpoint, their shapes and dtypes."""
    faults = [f"tensor {key} {list(shape)} is missing" for key, shape in expected.items() if key not in named]
    for key, tensor in stored.items():
        if key not in expected:
            faults.append(f"tensor {key} {list(tensor.shape)} has no place in the model that config.json describes")
        elif tensor.shape != expected[key]:
            faults.append(f"tensor {key} is {list(tensor.shape)}; config.json makes it {list(expected[key])}")
        if tensor.dtype not in READABLE:
            faults.append(f"tensor {key} is {tensor.dtype}; supported are {', '.join(READABLE)}")
    return faults


def _raw_sharding(tensor: Tensor, sharding: NamedSharding) -> NamedSharding:
    """Sharding of one layer as it is stored, (out, in) for kernels, from that of the parameter."""
    axes = tuple(sharding.spec)[1 if tensor.row.is_stacked else 0 :]
    axes += (None,) * (len(tensor.shape) - len(axes))  # a specification may leave whole axes at its end out
    return NamedSharding(sharding.mesh, PartitionSpec(*(axes[::-1] if tensor.row.is_transposed else axes)))


def _on_devices(tensor: Tensor, parts: list[StoredTensor], sharding: NamedSharding) -> jax.Array:
    """A tensor in the file's dtype on its sharding, each process and device reading its slices alone.

    One slice at a time is on the host, where `jax.make_array_from_callback` would hold those of all its devices.
    """
    read = functools.partial(_slice, tensor, [part.read() for part in parts])
    if _VOCAB_ROWS.fullmatch(tensor.row.path):
        read = _with_added_rows(read, parts[0], tensor.shape[0])
    holders: dict[Shape, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(tensor.shape).items():
        spans = tuple(slice(*part.indices(size)[:2]) for part, size in zip(index or (), tensor.shape, strict=True))
        holders.setdefault(tuple(n for span in spans for n in (span.start, span.stop)), []).append(device)
    arrays = []
    for bounds, devices in holders.items():
        index = tuple(slice(*bounds[i : i + 2]) for i in range(0, len(bounds), 2))
        values = np.require(read(index), requirements=("C", "A"))
        arrays += [jax.device_put(values, device).block_until_ready() for device in devices]
    return jax.make_array_from_single_device_arrays(tensor.shape, sharding, arrays)


@jax.jit
def _all_finite(values: jax.Array) -> jax.Array:
    return jnp.isfinite(values).all()


def _slice(tensor: Tensor, parts: list[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
    """A slice of a tensor, a view of the file where its arrangement allows."""
    arrange = tensor.row.arrange
    if not arrange.rows_only:
        return arrange.ours(parts)[index]
    return arrange.ours([part[:, *index[1:]] for part in parts])[index[0]]


def _with_added_rows(
    read: Callable[[tuple[slice, ...]], np.ndarray], stored: StoredTensor, num_rows: int
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Reads a table of one row a token that has more rows than the stored one: the mean of the stored ones."""
    there = stored.shape[0]
    if num_rows == there:
        return read
    table = stored.read()
    total = np.zeros(stored.shape[1:], np.float64)
    for start in range(0, there, _MEAN_ROWS):  # never the whole table in a wider dtype
        total += table[start : start + _MEAN_ROWS].astype(np.float32).sum(axis=0, dtype=np.float64)
    mean = (total / there).astype(table.dtype)

    def read_more(index: tuple[slice, ...]) -> np.ndarray:
        rows, rest = index[0], index[1:]
        old = read((slice(min(rows.start, there), min(rows.stop, there)), *rest))
        new = np.broadcast_to(mean[rest], (rows.stop - rows.start - len(old), *old.shape[1:]))
        return np.concatenate([old, new])

    return read_more


@functools.partial(jax.jit, static_argnames=("transposed", "dtype", "sharding"))
def _whole(values: jax.Array, *, transposed: bool, dtype: Any, sharding: NamedSharding) -> jax.Array:
    values = (values.T if transposed else values).astype(dtype)
    return jax.lax.with_sharding_constraint(values, sharding)


@functools.partial(jax.jit, static_argnames=("transposed", "sharding"), donate_argnums=0)
def _layer(
    stack: jax.Array, values: jax.Array, layer: jax.Array, *, transposed: bool, sharding: NamedSharding
) -> jax.Array:
    values = (values.T if transposed else values).astype(stack.dtype)
    return jax.lax.with_sharding_constraint(jax.lax.dynamic_update_index_in_dim(stack, values, layer, 0), sharding)
