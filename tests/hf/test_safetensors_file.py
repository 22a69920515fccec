"""Files are what the safetensors package reads and writes, and nothing outside the folder is opened."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sage_jax.hf.safetensors_file import ShardWriter, open_file, open_folder

BFLOAT16 = np.dtype(jnp.bfloat16)


def write(folder: Path, arrays: dict[str, np.ndarray], dtype: np.dtype, most: int = 1 << 30) -> None:
    shapes = [(key, values.shape) for key, values in arrays.items()]
    with ShardWriter(folder, shapes, dtype, max_shard_bytes=most) as writer:
        for key, values in arrays.items():
            writer.write(key, values)


def arrays(dtype: np.dtype) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 4), (1, 1, 7)]
    return {f"layer.{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16])
def test_the_safetensors_package_reads_what_is_written(tmp_path: Path, dtype: np.dtype) -> None:
    values = arrays(dtype)
    write(tmp_path, values, dtype)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(values) and file.metadata() == {"format": "pt"}
        for key, expected in values.items():
            found = file.get_tensor(key)
            assert str(found.dtype) == f"torch.{dtype.name}"
            np.testing.assert_array_equal(found.float().numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_the_safetensors_package_writes_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    values = {"a": torch.randn(3, 5).to(dtype), "odd.key/of \u00fc": torch.randn(2, 2, 2).to(dtype)}
    save_file(values, tmp_path / "model.safetensors")
    found, faults = open_file(tmp_path / "model.safetensors")
    assert not faults and found.keys() == values.keys()
    for key, tensor in found.items():
        view = tensor.read()
        np.testing.assert_array_equal(view.astype(np.float32), values[key].float().numpy())
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0


def test_shards_hold_each_tensor_once_and_the_index_says_where(tmp_path: Path) -> None:
    values = arrays(BFLOAT16)
    write(tmp_path, values, BFLOAT16, most=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(v.size for v in values.values())
    assert sorted({*index["weight_map"].values()}) == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len({*index["weight_map"].values()}) == 3
    opened = open_folder(tmp_path)
    assert not opened.faults and opened.named == values.keys()
    for key, expected in values.items():
        assert opened.tensors[key].file.name == index["weight_map"][key]
        np.testing.assert_array_equal(opened.tensors[key].read(), expected)


def test_shards_without_an_index_are_read_together(tmp_path: Path) -> None:
    for i in range(2):
        save_file({f"key.{i}": torch.ones(2)}, tmp_path / f"pytorch_model-{i}.safetensors")
    save_file({"other": torch.ones(2)}, tmp_path / "sage_fusion.safetensors")
    assert open_folder(tmp_path).tensors.keys() == {"key.0", "key.1"}
    save_file({"key.0": torch.ones(2)}, tmp_path / "pytorch_model-2.safetensors")
    assert open_folder(tmp_path).faults == [
        "pytorch_model-2.safetensors: tensor key.0 is in pytorch_model-0.safetensors too"
    ]


def test_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    """The hub's cache keeps files elsewhere and links them into the folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    assert open_folder(tmp_path / "snapshot").tensors.keys() == {"a"}


def test_the_writer_takes_tensors_in_their_order_and_all_of_them(tmp_path: Path) -> None:
    shapes = [("a", (2,)), ("b", (3,))]
    with pytest.raises(ValueError, match="b float32.* came where a bfloat16"):
        with ShardWriter(tmp_path, shapes, BFLOAT16, max_shard_bytes=99) as writer:
            writer.write("b", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="1 tensors were never written, b first"):
        with ShardWriter(tmp_path, shapes, BFLOAT16, max_shard_bytes=99) as writer:
            writer.write("a", np.zeros(2, ml_dtypes.bfloat16))


def test_pickles_are_never_opened_and_their_conversion_works(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 2), "b": torch.randn(4).bfloat16()}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (fault,) = open_folder(tmp_path).faults
    command = fault.split('python -c "')[1].rsplit('"', 1)[0]
    exec(command, {})  # what the message tells the user to run
    found = open_folder(tmp_path)
    assert not found.faults
    for key, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor.read().astype(np.float32), weights[key].float().numpy())
