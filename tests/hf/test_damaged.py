"""Damaged checkpoints: each gives one error that names what is wrong, quickly, and nothing is loaded."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import open_checkpoint
from tests.support.tiny_internvl import MODEL, save_internvl, torch_internvl


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


Damage = Callable[[Path, random.Random], str]
"""Damages the folder and returns what the error must name."""


def pick(folder: Path, rng: random.Random) -> tuple[Path, dict[str, Any], bytes, str]:
    """A shard, its content and one of its keys."""
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    header, data = header_of(path)
    return path, header, data, rng.choice(sorted(header.keys() - {"__metadata__"}))


def change_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> Any:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    result = change(index["weight_map"])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return result


def without(folder: Path, rng: random.Random) -> str:
    path, header, data, key = pick(folder, rng)
    begin, end = header.pop(key)["data_offsets"]
    for about in header.values():
        if "data_offsets" in about and about["data_offsets"][0] >= end:
            about["data_offsets"] = [offset - (end - begin) for offset in about["data_offsets"]]
    write_header(path, header, data[:begin] + data[end:])
    if rng.random() < 0.5:  # the index may know of it or not
        change_index(folder, lambda places: places.pop(key))
    return key


def extra(folder: Path, rng: random.Random) -> str:
    path, header, data, _ = pick(folder, rng)
    name = f"language_model.model.layers.{rng.randrange(2, 9)}.mlp.up_proj.weight"
    header[name] = {"dtype": "F32", "shape": [24, 16], "data_offsets": [len(data), len(data) + 4 * 24 * 16]}
    write_header(path, header, data + bytes(4 * 24 * 16))
    change_index(folder, lambda places: places.update({name: path.name}))
    return name


def misshapen(folder: Path, rng: random.Random) -> str:
    path, header, data, key = pick(folder, rng)
    shape = header[key]["shape"]
    header[key]["shape"] = [*shape, 1] if rng.random() < 0.5 or len(set(shape)) < 2 else [int(np.prod(shape))]
    write_header(path, header, data)
    return key


def retyped(folder: Path, rng: random.Random) -> str:
    path, header, data, key = pick(folder, rng)
    header[key]["dtype"] = rng.choice(["I32", "U32", "F4X", "I64", "BOOL"])
    write_header(path, header, data)
    return key


def truncated(folder: Path, rng: random.Random) -> str:
    path, *_ = pick(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return path.name


def grown(folder: Path, rng: random.Random) -> str:
    path, *_ = pick(folder, rng)
    path.write_bytes(path.read_bytes() + bytes(rng.randrange(1, 99)))
    return path.name


def scrambled(folder: Path, rng: random.Random) -> str:
    path, header, data, _ = pick(folder, rng)
    text = bytearray(json.dumps(header).encode())
    text[rng.randrange(len(text) - 3)] = 255
    write_header(path, bytes(text), data)
    return path.name


def doubled(folder: Path, rng: random.Random) -> str:
    path, header, data, key = pick(folder, rng)
    entry = f"{json.dumps(key)}: {json.dumps(header[key])}, "
    write_header(path, ("{" + entry + json.dumps(header)[1:]).encode(), data)
    return key


def overlapping(folder: Path, rng: random.Random) -> str:
    """Two tensors share their bytes, and other bytes are nobody's."""
    path = rng.choice([p for p in sorted(folder.glob("*.safetensors")) if equal_sizes(p)])
    header, data = header_of(path)
    first, second = rng.choice(equal_sizes(path))
    header[first]["data_offsets"] = header[second]["data_offsets"]
    write_header(path, header, data)
    return path.name


def equal_sizes(path: Path) -> list[tuple[str, str]]:
    """Pairs of a file's tensors of as many bytes, the earlier first."""
    header, _ = header_of(path)
    spans = sorted((about["data_offsets"], key) for key, about in header.items() if key != "__metadata__")
    pairs = itertools.combinations(spans, 2)
    return [(a, b) for ((begin, end), a), ((start, stop), b) in pairs if end - begin == stop - start]


def copied(folder: Path, rng: random.Random) -> str:
    """A tensor is in two shards, in one of which the index does not know it."""
    path, header, data, key = pick(folder, rng)
    other = rng.choice([other for other in sorted(folder.glob("*.safetensors")) if other != path])
    begin, end = header[key]["data_offsets"]
    other_header, other_data = header_of(other)
    other_header[key] = {**header[key], "data_offsets": [len(other_data), len(other_data) + end - begin]}
    write_header(other, other_header, other_data + data[begin:end])
    return other.name


def lost_shard(folder: Path, rng: random.Random) -> str:
    path, *_ = pick(folder, rng)
    path.unlink()
    return path.name


def lying_index(folder: Path, rng: random.Random) -> str:
    path, _, _, key = pick(folder, rng)
    others = [other.name for other in sorted(folder.glob("*.safetensors")) if other != path]
    change_index(folder, lambda places: places.update({key: rng.choice(others)}))
    return key


def silent_index(folder: Path, rng: random.Random) -> str:
    *_, key = pick(folder, rng)
    change_index(folder, lambda places: places.pop(key))
    return key


def outside(folder: Path, rng: random.Random) -> str:
    """A shard lies elsewhere, and the index says where."""
    path, *_ = pick(folder, rng)
    elsewhere = folder.parent / "elsewhere.safetensors"
    path.rename(elsewhere)
    name = rng.choice(["../elsewhere.safetensors", str(elsewhere), f"../{folder.parent.name}/../elsewhere.safetensors"])
    name = name if (folder / name).exists() else "../elsewhere.safetensors"
    change_index(folder, lambda places: places.update({k: name for k, v in places.items() if v == path.name}))
    return name


def no_index(folder: Path, rng: random.Random) -> str:
    path = folder / "model.safetensors.index.json"
    path.write_text(
        rng.choice(["", "[]", '{"weight_map": 3}', path.read_text()[: rng.randrange(50)], '{"weight_map": {"a": 1}}'])
    )
    return path.name


def pickled(folder: Path, rng: random.Random) -> str:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    name = rng.choice(["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    return "torch.load(f, map_location='cpu', weights_only=True)"


def resized_config(folder: Path, rng: random.Random) -> str:
    section, name, value = rng.choice(
        [
            ("text_config", "num_hidden_layers", 3),
            ("text_config", "intermediate_size", 32),
            ("text_config", "vocab_size", 50),
            ("vision_config", "num_hidden_layers", 1),
            ("vision_config", "image_size", [16, 16]),
            ("vision_config", "attention_bias", False),
        ]
    )
    config = json.loads((folder / "config.json").read_text())
    config[section][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    return "tensor "


DAMAGES: list[Damage] = [
    *(without, extra, misshapen, retyped, truncated, grown, scrambled, doubled, overlapping, copied),
    *(lost_shard, lying_index, silent_index, outside, no_index, pickled, resized_config),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of several shards without a fault."""
    folder = save_internvl(torch_internvl("qwen2"), tmp_path_factory.mktemp("sound"))
    open_checkpoint(folder, MODEL)
    return folder


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_checkpoint_gives_one_clear_error_and_nothing_is_loaded(
    sound: Path, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    named = DAMAGES[seed % len(DAMAGES)](folder, random.Random(seed))
    arrays, started = len(jax.live_arrays()), time.perf_counter()
    with pytest.raises(WeightsError) as raised:
        open_checkpoint(folder, MODEL)
    assert time.perf_counter() - started < 1.0
    assert named in str(raised.value), str(raised.value)
    assert str(folder) in str(raised.value)
    assert len(jax.live_arrays()) == arrays


@pytest.mark.parametrize("damage", [pickled, no_index])
def test_where_no_file_can_be_read_its_tensors_are_not_said_to_be_missing(
    sound: Path, tmp_path: Path, damage: Damage
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    damage(folder, random.Random(0))
    with pytest.raises(WeightsError, match="1 fault, nothing was loaded"):
        open_checkpoint(folder, MODEL)


def test_all_faults_are_in_one_message(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    rng = random.Random(0)
    named = [damage(folder, rng) for damage in (extra, misshapen, lying_index, lost_shard)]
    with pytest.raises(WeightsError) as raised:
        open_checkpoint(folder, MODEL)
    for name in named:
        assert name in str(raised.value)
