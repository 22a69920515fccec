"""safetensors files: tensors of one or several shards, mapped and checked, and shards written one tensor at a time.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of a JSON header, little-endian; the
header, which gives dtype, shape and byte range of each tensor; the tensors, without gaps. Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import jax.numpy as jnp
import numpy as np

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"

READABLE: Final[dict[str, np.dtype]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
"""Dtypes that weights may have."""

_SIZES: Final = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1},
    **{"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4},
    **{"I64": 8, "U64": 8, "F64": 8, "C64": 8},
}
_MOST_HEADER_BYTES: Final = 100_000_000
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OTHERS: Final = ("sage_fusion.safetensors", "adapter_model.safetensors")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      file: The file.
      dtype: Its dtype by the format's name, such as `BF16`.
      shape: Its shape.
      offset: Its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _SIZES[self.dtype]

    def read(self) -> np.ndarray:
        """The tensor as a read-only view of the mapped file; what is not looked at is not read."""
        mapped = np.memmap(self.file, READABLE[self.dtype], "r", self.offset, self.shape)
        return mapped.view(np.ndarray)


def open_file(path: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of one file by key, and everything that is wrong with it; only its header is read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                return {}, [f"{path.name}: truncated, or no safetensors file ({size} bytes); download it again"]
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except FileNotFoundError:
        return {}, [f"{path.name}: there is no such file in the folder; download it"]
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"{path.name}: its header cannot be read ({error}); download it again"]
    if not isinstance(header, dict):
        return {}, [f"{path.name}: its header is no JSON object; download it again"]
    header.pop("__metadata__", None)
    found: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    faults = []
    for key, about in header.items():
        fault = _entry_fault(about)
        if fault:
            faults.append(f"{path.name}: tensor {key}: {fault}")
            continue
        begin, end = about["data_offsets"]
        spans.append((begin, end, key))
        found[key] = StoredTensor(path, about["dtype"], tuple(about["shape"]), 8 + length + begin)
    if not faults:
        faults = [f"{path.name}: {fault}" for fault in _span_faults(spans, size - 8 - length)]
    return found, faults


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a checkpoint folder holds.

    Attributes:
      tensors: Tensors by key.
      faults: Everything that is wrong with the files.
      named: Keys that the index or a file names, those of files that cannot be read too.
    """

    tensors: dict[str, StoredTensor]
    faults: list[str]
    named: frozenset[str]


def open_folder(folder: Path) -> Opened:
    """The tensors of a checkpoint folder, from the headers of its files.

    Read is what `model.safetensors.index.json` names; without it, `model.safetensors`; without that, every safetensors
    file. Pickle files are never opened.
    """
    if (folder / INDEX).is_file():
        return _open_indexed(folder)
    names = [SINGLE] if (folder / SINGLE).is_file() else sorted(path.name for path in folder.glob("*.safetensors"))
    names = [name for name in names if name not in _OTHERS]
    if not names:
        return Opened({}, [_no_weights(folder)], frozenset())
    found: dict[str, StoredTensor] = {}
    faults = []
    for name in names:
        of_file, of_file_faults = open_file(folder / name)
        faults += of_file_faults
        faults += [f"{name}: tensor {key} is in {found[key].file.name} too" for key in of_file if key in found]
        found.update(of_file)
    return Opened(found, faults, frozenset(found))


def _open_indexed(folder: Path) -> Opened:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"), object_pairs_hook=_unique)
        file_of = index["weight_map"]
        if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
            raise ValueError("weight_map is no object of file names")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Opened(
            {}, [f"{INDEX}: cannot be read ({type(error).__name__}: {error}); download it again"], frozenset()
        )
    outside = sorted({name for name in file_of.values() if not re.fullmatch(r"[^/\\:]+\.safetensors", name)})
    faults = [f"{INDEX}: names {name!r}, which is no safetensors file of the folder" for name in outside]
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(file_of.values()) - set(outside)):
        of_file, of_file_faults = open_file(folder / name)
        faults += of_file_faults
        for key, tensor in of_file.items():
            if file_of.get(key) == name:
                found[key] = tensor
            else:
                said = f"puts it in {file_of[key]!r}" if key in file_of else "does not name it"
                faults.append(f"{name}: holds {key}, but {INDEX} {said}")
        if not of_file_faults:
            absent = [key for key, file in file_of.items() if file == name and key not in of_file]
            faults += [f"{INDEX}: puts {key} in {name}, which does not hold it" for key in absent]
    return Opened(found, faults, frozenset(file_of))


class ShardWriter:
    """Writes tensors to safetensors shards one after the other, so that no more than one is in memory.

    Args:
      folder: Where they go, as `model.safetensors`, or several shards and an index.
      tensors: Key and shape of every tensor, in the order in which they will be written.
      dtype: Dtype of all of them.
      max_shard_bytes: Most bytes of tensors in a shard; a larger tensor has a shard of its own.
      single: File name where one shard is enough.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Sequence[tuple[str, tuple[int, ...]]],
        dtype: np.dtype,
        *,
        max_shard_bytes: int,
        single: str = SINGLE,
    ) -> None:
        self._folder, self._dtype = folder, dtype
        self._shards = _shards(tensors, dtype.itemsize, max_shard_bytes)
        number = len(self._shards)
        stem = single.removesuffix(".safetensors")
        self._names = [f"{stem}-{i + 1:05d}-of-{number:05d}.safetensors" for i in range(number)]
        if number == 1:
            self._names = [single]
        self._index = f"{single}.index.json"
        self._waiting = [(i, key, shape) for i, shard in enumerate(self._shards) for key, shape in shard][::-1]
        self._open: tuple[int, BinaryIO] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open[1].close()
        if error is None:
            self._finish()

    def write(self, key: str, values: np.ndarray) -> None:
        """Writes the next tensor.

        Raises:
          ValueError: It is not the next one, or not of its shape and dtype.
        """
        shard, wanted, shape = self._waiting.pop()
        if (key, values.shape, values.dtype) != (wanted, shape, self._dtype):
            raise ValueError(f"{key} {values.dtype}{values.shape} came where {wanted} {self._dtype}{shape} was due")
        if self._open is None or self._open[0] != shard:
            if self._open:
                self._open[1].close()
            file = (self._folder / self._names[shard]).open("wb")
            self._open = (shard, file)
            file.write(self._header(shard))
        self._open[1].write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def _header(self, shard: int) -> bytes:
        (name,) = (name for name, dtype in READABLE.items() if dtype == self._dtype)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # read as torch weights, (out, in)
        begin = 0
        for key, shape in self._shards[shard]:
            end = begin + math.prod(shape) * self._dtype.itemsize
            header[key] = {"dtype": name, "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
        return len(text).to_bytes(8, "little") + text

    def _finish(self) -> None:
        if self._waiting:
            raise ValueError(f"{len(self._waiting)} tensors were never written, {self._waiting[-1][1]} first")
        if len(self._shards) > 1:
            file_of = {key: self._names[i] for i, shard in enumerate(self._shards) for key, _ in shard}
            sizes = [math.prod(shape) for shard in self._shards for _, shape in shard]
            about = {"total_parameters": sum(sizes), "total_size": sum(sizes) * self._dtype.itemsize}
            text = json.dumps({"metadata": about, "weight_map": dict(sorted(file_of.items()))}, indent=2)
            (self._folder / self._index).write_text(text + "\n", encoding="utf-8")


def _shards(
    tensors: Iterable[tuple[str, tuple[int, ...]]], item_bytes: int, most: int
) -> list[list[tuple[str, tuple[int, ...]]]]:
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for key, shape in tensors:
        size = math.prod(shape) * item_bytes
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append((key, shape))
        filled += size
    return shards


def _entry_fault(about: Any) -> str:
    """What is wrong with a tensor's entry of a header, by itself; "" = nothing."""
    try:
        dtype, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
        whole = [n for n in (*shape, begin, end) if type(n) is not int or n < 0]
    except (TypeError, KeyError, ValueError):
        return "its entry in the header is damaged; download the file again"
    if whole or not isinstance(dtype, str) or dtype not in _SIZES:
        return f"dtype {dtype}, shape {shape}, bytes {begin} to {end} are not a tensor's; download the file again"
    if end - begin != math.prod(shape) * _SIZES[dtype]:
        return f"{dtype}{shape} does not take bytes {begin} to {end}; download the file again"
    return ""


def _span_faults(spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """What is wrong with the byte ranges together: they must follow one another to the end of the file."""
    at = 0
    for begin, end, key in sorted(spans):
        if begin != at:
            return [f"the bytes of {key} start at {begin}, where {at} was due; download the file again"]
        at = end
    if at != size:
        state = "truncated" if size < at else "has bytes that belong to no tensor"
        return [f"{state}: {size} bytes of tensors, the header says {at}; download the file again"]
    return []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return found


def _no_weights(folder: Path) -> str:
    pickles = sorted({path.name for pattern in _PICKLES for path in folder.glob(pattern)})
    if not pickles:
        return "there are no weights: no safetensors file in the folder"
    glob = pickles[0] if len(pickles) == 1 else f"*{Path(pickles[0]).suffix}"
    return (
        f"{', '.join(pickles)}: pickle files, which can run any program when read, are not opened. Convert them "
        "where torch is installed, if you trust their source:\n"
        '  python -c "import glob, os, torch; from safetensors.torch import save_file; '
        "[save_file({k: v.clone() for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, "
        f"os.path.splitext(f)[0] + '.safetensors', {{'format': 'pt'}}) for f in glob.glob('{folder}/{glob}')]\""
    )
