"""Checksums find every change of a file, of a folder and of JSON, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from sage_jax.process.checksums import (
    FILE,
    damaged,
    file_sum,
    open_bytes,
    open_json,
    read_npz,
    sealed_bytes,
    sealed_json,
    write_checksums,
)

CONTENT = {"weights": "ab", "config": {"seed": 0, "freeze": ["vit/"], "rate": 1e-3, "none": None}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name in ("a.bin", "inner/b.bin", "empty"):
        (tmp_path / name).write_bytes(name.encode() * 50 if name != "empty" else b"")
    write_checksums(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["a.bin", "inner/b.bin", "empty"])
def test_every_way_to_damage_a_file_is_found(folder: Path, name: str) -> None:
    assert damaged(folder) == []
    path = folder / name
    before = path.read_bytes()
    for content in (before[:-1], before + b"x", bytes([before[0] ^ 1]) + before[1:] if before else b"\x00"):
        path.write_bytes(content)
        assert (damaged(folder) == [name]) == (content != before)
        path.write_bytes(before)
    path.unlink()
    assert damaged(folder) == [name]


def test_the_list_itself_may_be_damaged_or_missing(folder: Path) -> None:
    path = folder / FILE
    flipped = path.read_bytes().replace(b'"a.bin": "', b'"a.bin": "0')
    for content in (b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, flipped):
        path.write_bytes(content)
        assert damaged(folder) == [FILE]
    path.unlink()
    assert damaged(folder) == [] and damaged(folder, listed=True) == [FILE]
    path.symlink_to(folder / "nowhere")
    assert damaged(folder) == [FILE]
    path.unlink()
    write_checksums(folder, ["a.bin"])
    (folder / "empty").write_bytes(b"more")
    assert damaged(folder) == []


@pytest.mark.parametrize("name", ["/dev/zero", "../../etc/hostname", "a\0", "inner", "loop"])
def test_a_list_from_elsewhere_opens_nothing_but_files_of_its_folder(folder: Path, name: str) -> None:
    (folder / "loop").symlink_to("/dev/zero")
    content = {"files": {name: "0" * 64}}
    for text in (json.dumps(content["files"]), json.dumps(sealed_json(content))):
        (folder / FILE).write_text(text)
        assert damaged(folder) == [name]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_whole_file_outside_the_folder_is_not_of_it(folder: Path, tmp_path: Path, absolute: bool) -> None:
    inner, outside = folder / "inner", tmp_path / "a.bin"
    name = str(outside) if absolute else "../a.bin"
    (inner / FILE).write_text(json.dumps(sealed_json({"files": {name: file_sum(outside)}})))
    assert (inner / name).is_file() and damaged(inner) == [name]


def test_a_list_may_have_another_name(folder: Path) -> None:
    write_checksums(folder, ["a.bin"], file="mine.json")
    (folder / "a.bin").write_bytes(b"other")
    assert damaged(folder, file="mine.json") == ["a.bin"] and damaged(folder, file="none.json") == []


def test_content_of_before_it_had_a_checksum_is_taken_where_that_is_said() -> None:
    text = json.dumps(sealed_json({"a": 1}))
    assert open_json(text, always=False) == open_json('{"a": 1}', always=False) == {"a": 1}
    with pytest.raises(ValueError, match="it has no checksum"):
        open_json('{"a": 1}')
    with pytest.raises(ValueError, match="its checksum is not that"):
        open_json(text.replace('"a": 1', '"a": 2'), always=False)


def test_keys_that_are_no_texts_come_back_as_json_writes_them() -> None:
    assert open_json(json.dumps(sealed_json({"by_step": {1: 0.5}}))) == {"by_step": {"1": 0.5}}


def test_a_list_of_before_lists_had_a_checksum_is_read(folder: Path) -> None:
    path = folder / FILE
    path.write_text(json.dumps(json.loads(path.read_text())["files"]))
    assert damaged(folder, listed=True) == []
    (folder / "a.bin").write_bytes(b"other")
    assert damaged(folder) == ["a.bin"]


def test_json_comes_back_and_any_other_value_is_refused() -> None:
    text = json.dumps(sealed_json(CONTENT))
    assert open_json(text) == CONTENT
    assert open_json(json.dumps(sealed_json(CONTENT), indent=3)) == CONTENT
    for old, new in (('"seed": 0', '"seed": 1'), ("0.001", "0.002"), ("vit/", "vjt/"), ("null", "true")):
        assert old in text
        with pytest.raises(ValueError, match="its checksum is not that of its content"):
            open_json(text.replace(old, new))
    for broken in ("", "{", "[]", "3", "[" * 100_000, json.dumps(CONTENT)):
        with pytest.raises(ValueError):
            open_json(broken)


def test_each_bit_of_sealed_bytes_counts() -> None:
    sealed = sealed_bytes(b"numbers")
    assert open_bytes(sealed) == b"numbers" and open_bytes(sealed_bytes(b"")) == b""
    for at in range(len(sealed)):
        for bit in range(8):
            changed = sealed[:at] + bytes([sealed[at] ^ (1 << bit)]) + sealed[at + 1 :]
            with pytest.raises(ValueError):
                open_bytes(changed)
    for short in (b"", sealed[:5], sealed[:-1], sealed[1:]):
        with pytest.raises(ValueError):
            open_bytes(short)


def test_an_npz_with_any_bit_flipped_gives_its_arrays_or_one_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.npz", random.Random(0)
    np.savez(path, spans=np.arange(6).reshape(3, 2), sources=np.zeros(0))
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            found = read_npz(path, "spans", "sources")
        except ValueError as error:
            assert "cannot be read as .npz" in str(error)
            refused += 1
        else:
            assert [array.tolist() for array in found] == [[[0, 1], [2, 3], [4, 5]], []], (
                "another value than was written"
            )
    path.write_bytes(whole)
    assert refused > len(whole) / 2 and read_npz(path, "sources", "spans")[1].tolist() == [[0, 1], [2, 3], [4, 5]]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_npz(path, "spans")
